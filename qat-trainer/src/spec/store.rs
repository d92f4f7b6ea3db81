//! The copy of a run description that is kept beside the results.

use super::{LlmRun, Run};
use crate::error::{Error, ErrorKind, Result};
use std::path::{Component, Path, PathBuf};
use toml_edit::{DocumentMut, Item, TableLike, value};

impl Run {
    /// The text of this run description for a file in `folder` (which must exist): the same text with the seed that
    /// holds and a `base` from which the paths lead to the same files.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if a folder does not exist; [`ErrorKind::Spec`] if a path is not UTF-8.
    ///
    /// ```
    /// use qat_trainer::spec::Run;
    /// # let dir = tempfile::tempdir()?;
    /// let (configs, kept) = (dir.path().join("configs"), dir.path().join("runs/7"));
    /// std::fs::create_dir_all(&configs)?;
    /// std::fs::create_dir_all(&kept)?;
    /// let toml = r#"
    /// data = { format = "csv", train = "train.csv", test = "test.csv" }
    /// model = { layers = [{ op = "linear", out = 3 }] }
    /// "#;
    /// let mut run = Run::parse(toml, &configs.join("iris.toml"))?;
    /// run.train.seed = 7;
    /// let copy = run.text_for(&kept)?;
    /// assert!(copy.contains("base = \"../../configs\"") && copy.contains("seed = 7"), "{copy}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn text_for(&self, folder: &Path) -> Result<String> {
        stored(&self.text, &self.file, &self.base, self.train.seed, folder)
    }

    /// The same run description with these bits for the layers of these names, and no budget for them to be chosen under.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] if there is no such layer, or for bits that cannot be.
    ///
    /// ```
    /// use qat_trainer::spec::Run;
    /// let toml = r#"
    /// data = { format = "none", shape = [1, 1, 8] }
    /// model = { layers = [{ op = "linear", out = 4 }, { op = "linear", name = "last", out = 2 }] }
    /// qat = { bits = 2, max_bytes = 2000 }
    /// "#;
    /// let run = Run::parse(toml, "run.toml".as_ref())?.with_bits(&[("linear0".into(), 3), ("last".into(), 8)])?;
    /// let quants = run.model.layers.iter().filter_map(|layer| layer.op.quant());
    /// assert!(quants.map(|quant| quant.levels.bits()).eq([3, 8]));
    /// assert_eq!(run.qat.max_bytes, None);
    /// assert!(run.with_bits(&[("linear1".into(), 4)]).is_err()); // it has a name of its own
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn with_bits(&self, bits: &[(String, u8)]) -> Result<Self> {
        let mut document: DocumentMut = self
            .text
            .parse()
            .map_err(|e: toml_edit::TomlError| Error::new(ErrorKind::Spec, e.message()).file(&self.file))?;
        for (name, bits) in bits {
            let Some(layer) = layer_of(&mut document, name) else {
                let problem = format!("there is no layer `{name}` to give {bits} bits to");
                return Err(Error::new(ErrorKind::Spec, problem).file(&self.file));
            };
            layer.insert("bits", value(i64::from(*bits)));
        }
        if let Some(qat) = document.get_mut("qat").and_then(|q| q.as_table_like_mut()) {
            qat.remove("max_bytes");
        }
        let mut run = Self::parse(&document.to_string(), &self.file)?;
        // The paths of a merged text start elsewhere, and a seed may come from the command line.
        run.name.clone_from(&self.name);
        (run.base, run.data, run.distill) = (self.base.clone(), self.data.clone(), self.distill.clone());
        run.train.seed = self.train.seed;
        Ok(run)
    }

    /// All of this run description that decides how a training goes, in one canonical form: with the seed that holds,
    /// without the name and without the data, which is better known by what is in it.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] if the text is not TOML, which a `Run` has made sure of.
    #[cfg(feature = "tch")]
    pub(crate) fn text_of_training(&self) -> Result<String> {
        canonical(&self.text, &self.file, self.train.seed)
    }
}

impl LlmRun {
    /// As [`Run::text_for`].
    ///
    /// # Errors
    /// As [`Run::text_for`].
    ///
    /// ```
    /// use qat_trainer::spec::LlmRun;
    /// # let dir = tempfile::tempdir()?;
    /// # let (configs, kept) = (dir.path().join("configs"), dir.path().join("runs/1"));
    /// # std::fs::create_dir_all(&configs)?;
    /// # std::fs::create_dir_all(&kept)?;
    /// let toml = r#"
    /// data = { format = "text", train = ["a.txt"] }
    /// model = { layers = 1, hidden = 16, heads = 2, mlp = 32 }
    /// train = { steps = 100 }
    /// "#;
    /// let run = LlmRun::parse(toml, &configs.join("run.toml"))?;
    /// let copy = LlmRun::parse(&run.text_for(&kept)?, &kept.join("config.toml"))?;
    /// assert_eq!(copy.base, kept.join("../../configs")); // where `a.txt` lies
    /// assert_eq!((copy.model, copy.train), (run.model, run.train));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn text_for(&self, folder: &Path) -> Result<String> {
        stored(&self.text, &self.file, &self.base, self.train.seed, folder)
    }

    /// As [`Run::text_of_training`]; what the model begins with is known by what is in it, too.
    #[cfg(feature = "tch")]
    pub(crate) fn text_of_training(&self) -> Result<String> {
        canonical(&self.text, &self.file, self.train.seed)
    }
}

/// The text with the seed that holds and a `base` from which paths lead to the same files, for a file in `folder`.
fn stored(text: &str, file: &Path, base: &Path, seed: u64, folder: &Path) -> Result<String> {
    let mut document: DocumentMut = text
        .parse()
        .map_err(|e: toml_edit::TomlError| Error::new(ErrorKind::Spec, e.message()).file(file))?;
    let base = relative_path(base, folder)?;
    let base = base.to_str().ok_or_else(|| {
        Error::new(ErrorKind::Spec, "this path is not UTF-8").file(&base).remedy("rename the folder")
    })?;
    document["base"] = value(base);
    let seed = i64::try_from(seed).unwrap_or(i64::MAX);
    let stated = document.get("train").and_then(|t| t.get("seed")).and_then(|s| s.as_integer());
    if stated != Some(seed) {
        document["train"]["seed"] = value(seed);
    }
    Ok(document.to_string())
}

/// All but name and data, in one form.
#[cfg(feature = "tch")]
fn canonical(text: &str, file: &Path, seed: u64) -> Result<String> {
    let wrong = |e: String| Error::new(ErrorKind::Spec, e).file(file);
    let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| wrong(e.to_string()))?;
    for key in ["name", "base", "data"] {
        table.remove(key);
    }
    let train = table.entry("train").or_insert_with(|| toml::Table::new().into());
    if let Some(train) = train.as_table_mut() {
        train.insert("seed".into(), seed.to_string().into());
    }
    serde_json::to_string(&table).map_err(|e| wrong(e.to_string()))
}

/// The layer of a name, in the text. Rotations and sigmoids that other layers ask for are none there, so that places in
/// the text and in the model differ.
fn layer_of<'a>(document: &'a mut DocumentMut, name: &str) -> Option<&'a mut dyn TableLike> {
    let layers = document.get_mut("model")?.get_mut("layers")?;
    let mut place = 0;
    loop {
        let layer = layers.get(place)?.as_table_like()?;
        let text = |key: &str| layer.get(key).and_then(Item::as_str);
        let own =
            text("name").map_or_else(|| format!("{}{place}", text("op").unwrap_or_default()), String::from);
        if own == name {
            return layers.get_mut(place)?.as_table_like_mut();
        }
        place += 1;
    }
}

/// The way from the folder `start` to the folder `target`. Neither need exist: that a file is missing is said by whoever
/// opens it.
pub(super) fn relative_path(target: &Path, start: &Path) -> Result<PathBuf> {
    Ok(relative(&absolute(target)?, &absolute(start)?))
}

/// The folder from the root on, links followed as far as it exists.
fn absolute(folder: &Path) -> Result<PathBuf> {
    let folder = std::path::absolute(folder.join(".")).map_err(|e| {
        Error::new(ErrorKind::Io, format!("cannot find this folder: {e}")).file(folder).remedy("check `base`")
    })?;
    let found = folder.ancestors().find_map(|there| Some((there, there.canonicalize().ok()?)));
    Ok(match found {
        Some((there, found)) => found.join(folder.strip_prefix(there).unwrap_or(Path::new(""))),
        None => folder,
    })
}

/// The way from `start` to `target`, both absolute and without links. Across drives there is none but `target` itself.
fn relative(target: &Path, start: &Path) -> PathBuf {
    let (mut to, mut from) = (target.components().peekable(), start.components().peekable());
    if to.peek() != from.peek() {
        return target.into();
    }
    while to.peek().is_some() && to.peek() == from.peek() {
        to.next();
        from.next();
    }
    let way: PathBuf = from.map(|_| Component::ParentDir).chain(to).collect();
    if way.as_os_str().is_empty() { PathBuf::from(".") } else { way }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Files, tests::MLP};
    use std::fs;

    #[test]
    fn ways_between_folders() {
        for (target, start, way) in
            [("/a/b", "/a/c/d", "../../b"), ("/a", "/a/b", ".."), ("/a/b/c", "/a", "b/c"), ("/a", "/a", ".")]
        {
            assert_eq!(relative(Path::new(target), Path::new(start)), Path::new(way));
        }
    }

    #[test]
    fn a_folder_need_not_exist() {
        let dir = tempfile::tempdir().unwrap();
        let at = |way: &str| dir.path().join(way);
        fs::create_dir(at("configs")).unwrap();
        for (target, start, way) in [
            ("configs/../models", "configs", "../models"),
            ("configs/../models/a", "models/b", "../a"),
            ("models", "configs/../models", "."),
        ] {
            assert_eq!(
                relative_path(&at(target), &at(start)).unwrap(),
                Path::new(way),
                "{target} from {start}"
            );
        }
        let here = std::env::current_dir().unwrap();
        assert_eq!(relative_path(Path::new(""), &here).unwrap(), Path::new("."));
    }

    #[test]
    fn the_copy_finds_the_same_files_and_keeps_the_seed() {
        let dir = tempfile::tempdir().unwrap();
        let (configs, runs) = (dir.path().join("configs"), dir.path().join("runs/a"));
        fs::create_dir_all(&configs).unwrap();
        fs::create_dir_all(&runs).unwrap();
        fs::write(configs.join("run.toml"), MLP).unwrap();
        fs::write(configs.join("train.csv"), "here").unwrap();
        let mut run = Run::load(configs.join("run.toml")).unwrap();
        run.train.seed = 77;
        let text = run.text_for(&runs).unwrap();
        fs::write(runs.join("config.toml"), &text).unwrap();
        let copy = Run::load(runs.join("config.toml")).unwrap();
        let ops = |r: &Run| r.model.layers.iter().map(|l| l.op.clone()).collect::<Vec<_>>();
        assert_eq!((&copy.train, ops(&copy)), (&run.train, ops(&run)));
        let Files::Csv { train, .. } = &copy.data.files else { panic!() };
        assert_eq!(fs::read_to_string(train).unwrap(), "here");
        // A copy of the copy says the same.
        assert_eq!(copy.text_for(&runs).unwrap(), text);
    }
}
