//! The few kinds of options the commands take.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

/// Words of the command line that nobody has asked for yet.
pub(crate) struct Args(Vec<String>);

impl Args {
    pub(crate) fn new(words: impl Iterator<Item = String>) -> Self {
        Self(words.collect())
    }

    /// Takes `name` out; true if it was there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|word| word != name);
        self.0.len() < before
    }

    /// Takes `name VALUE` out.
    pub(crate) fn value(&mut self, name: &str) -> Result<Option<String>> {
        let Some(at) = self.0.iter().position(|word| word == name) else { return Ok(None) };
        if at + 1 >= self.0.len() {
            bail!("{name} needs a value");
        }
        self.0.remove(at);
        Ok(Some(self.0.remove(at)))
    }

    /// Takes `name NUMBER` out.
    pub(crate) fn number(&mut self, name: &str) -> Result<Option<usize>> {
        let Some(text) = self.value(name)? else { return Ok(None) };
        Ok(Some(text.parse().with_context(|| format!("{name} needs a whole number, not `{text}`"))?))
    }

    /// Takes `name PATH` out, which must be there.
    pub(crate) fn path(&mut self, name: &str) -> Result<PathBuf> {
        self.value(name)?.map(PathBuf::from).with_context(|| format!("{name} FILE is missing"))
    }

    /// What is left: names, not options.
    pub(crate) fn rest(self) -> Result<Vec<String>> {
        match self.0.iter().find(|word| word.starts_with('-')) {
            Some(option) => bail!("unknown option {option}; see `cargo xtask help`"),
            None => Ok(self.0),
        }
    }

    /// Nothing must be left.
    pub(crate) fn finish(self) -> Result<()> {
        match self.rest()?.first() {
            Some(word) => bail!("`{word}` is one word too many; see `cargo xtask help`"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::new(words.iter().map(ToString::to_string))
    }

    #[test]
    fn options_may_stand_anywhere() {
        let mut a = args(&["digits", "--count", "7", "--yes"]);
        assert!(a.flag("--yes"));
        assert!(!a.flag("--yes"));
        assert_eq!(a.number("--count").unwrap(), Some(7));
        assert_eq!(a.rest().unwrap(), ["digits"]);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |r: Result<()>| r.unwrap_err().to_string();
        assert!(error(args(&["--hm"]).rest().map(drop)).contains("--hm"));
        assert!(error(args(&["more"]).finish()).contains("more"));
        assert!(error(args(&["--count"]).number("--count").map(drop)).contains("--count"));
        assert!(error(args(&["--count", "x"]).number("--count").map(drop)).contains("`x`"));
        assert!(error(args(&[]).path("--out").map(drop)).contains("--out"));
    }
}
