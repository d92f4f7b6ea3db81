//! Examples to learn from: tokens, and what each of them is: question, step of reasoning, answer, or plain text.

use super::arithmetic::{Half, Problems, Worked};
use super::text::read_text;
use super::tokenizer::Tokenizer;
use crate::error::{Error, ErrorKind, Result};
use crate::spec::{Delimiters, LlmDataSpec, LlmFiles};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a token is part of.
///
/// ```
/// use qat_trainer::llm::{Source, Span, Tokenizer, arithmetic::Worked, tokenise};
/// # let tokenizer = Tokenizer::characters(&"0123456789+=;#".chars().collect())?;
/// let steps = vec!["1+2=3;".into(), "3+3=6;".into()];
/// let worked = Worked { question: "1+2+3=".into(), steps, answer: "#6".into() };
/// let examples = tokenise(&[Source::Worked(worked)], &tokenizer, None, 32)?;
/// let parts: Vec<Span> = examples[0].spans.chunk_by(|a, b| a == b).map(|part| part[0]).collect();
/// assert_eq!(parts, [Span::Question, Span::Step(0), Span::Step(1), Span::Answer]);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Text without parts.
    Plain,
    /// The question, which is given and not predicted.
    Question,
    /// The step of this index.
    Step(u16),
    /// The answer, and the end of the text.
    Answer,
}

/// A sequence of tokens.
///
/// ```
/// use qat_trainer::llm::{Example, Source, Span, Tokenizer, arithmetic::Worked, tokenise};
/// # let tokenizer = Tokenizer::characters(&"0123456789+=;#".chars().collect())?;
/// # let end = tokenizer.id(Tokenizer::END);
/// let (question, steps, answer) = ("1+2=".into(), vec!["1+2=3;".into()], "#3".into());
/// let worked = Source::Worked(Worked { question, steps, answer });
/// let Example { tokens, spans } = tokenise(&[worked], &tokenizer, end, 32)?.remove(0);
/// assert_eq!(tokenizer.decode(&tokens)?, "1+2=1+2=3;#3");
/// // Every token has a span; a model is asked for all but those of the question.
/// let asked = spans.iter().position(|&span| span != Span::Question).unwrap_or(tokens.len());
/// assert_eq!((asked, spans.len(), tokens.last().copied()), (4, tokens.len(), end));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// What each of them is part of.
    pub spans: Vec<Span>,
}

/// Examples to learn from, and others to judge by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    /// Texts and problems to learn from.
    pub train: Vec<Source>,
    /// Others to judge by.
    pub held_out: Vec<Source>,
    /// Whether those to learn from count alike, however long they are.
    pub equal: bool,
}

/// A text or a problem before it is made tokens.
///
/// ```
/// use qat_trainer::llm::{Source, Tokenizer, tokenise};
/// let tokenizer = Tokenizer::characters(&('a'..='z').collect())?;
/// let end = tokenizer.id(Tokenizer::END);
/// let lengths = |source: Source| -> qat_trainer::Result<Vec<usize>> {
///     let examples = tokenise(&[source], &tokenizer, end, 4)?;
///     Ok(examples.iter().map(|example| example.tokens.len()).collect())
/// };
/// assert_eq!(lengths(Source::Text("abcdefghij".into()))?, [4, 4, 2]); // windows of four
/// assert_eq!(lengths(Source::Whole("abc".into()))?, [3 + 1]); // the end is learned, too
/// assert!(lengths(Source::Whole("abcd".into())).is_err()); // it is not cut
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A text of any length, to be cut into windows.
    Text(String),
    /// An example by itself, without parts.
    Whole(String),
    /// An example with parts.
    Worked(Worked),
}

impl Corpus {
    /// Reads, or generates, what a run description asks for.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] for a file that cannot be read; [`ErrorKind::Data`] naming file and line of what is no example.
    ///
    /// ```
    /// use qat_trainer::llm::{Corpus, Source, arithmetic::Worked};
    /// use qat_trainer::spec::{Delimiters, LlmDataSpec, LlmFiles};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("sums.jsonl");
    /// std::fs::write(&path, r##"{"text": "1+2=1+2=3;#3"}"##)?;
    /// let delimiters = Delimiters { reasoning: "=".into(), step: ";".into(), answer: "#".into() };
    /// let (train, held_out) = (vec![path.clone()], Vec::new());
    /// let files = LlmFiles::Jsonl { train, held_out, delimiters: Some(delimiters) };
    /// let spec = LlmDataSpec { files, window: 64 };
    /// let (question, steps, answer) = ("1+2=".into(), vec!["1+2=3;".into()], "#3".into());
    /// let worked = Worked { question, steps, answer };
    /// assert_eq!(Corpus::load(&spec)?.train, [Source::Worked(worked)]);
    /// std::fs::write(&path, "{\"text\": \"a=b#c\"}\n{}\n")?;
    /// let e = Corpus::load(&spec).unwrap_err().to_string();
    /// assert!(e.starts_with(&format!("{}: line 2: this is no example", path.display())), "{e}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(spec: &LlmDataSpec) -> Result<Self> {
        let each = |paths: &[PathBuf], read: &dyn Fn(&Path) -> Result<Vec<Source>>| {
            paths.iter().map(|path| read(path)).collect::<Result<Vec<_>>>().map(|all| all.concat())
        };
        match &spec.files {
            LlmFiles::Text { train, held_out, equal } => {
                let read = |path: &Path| Ok(vec![Source::Text(read_text(path)?)]);
                Ok(Self { train: each(train, &read)?, held_out: each(held_out, &read)?, equal: *equal })
            }
            LlmFiles::Jsonl { train, held_out, delimiters } => {
                let read = |path: &Path| jsonl(&read_text(path)?, path, delimiters.as_ref());
                Ok(Self { train: each(train, &read)?, held_out: each(held_out, &read)?, equal: false })
            }
            LlmFiles::Arithmetic(spec) => {
                let problems = |half| Problems::new(spec.seed, spec.operations, half);
                let train = problems(Half::Learned).take(spec.problems).map(Source::Worked).collect();
                // Few operations make few problems: so many draws, and what is different among them.
                let mut seen = BTreeSet::new();
                let held_out = problems(Half::HeldOut)
                    .take(spec.held_out.saturating_mul(8))
                    .filter(|p| seen.insert(p.question.clone()))
                    .take(spec.held_out)
                    .map(Source::Worked)
                    .collect();
                Ok(Self { train, held_out, equal: false })
            }
        }
    }

    /// Every character of the texts to learn from, in order.
    ///
    /// ```
    /// use qat_trainer::llm::{Corpus, Source, Tokenizer};
    /// let train = vec![Source::Text("abba".into()), Source::Whole("c".into())];
    /// let corpus = Corpus { train, held_out: vec![Source::Text("abcd".into())], equal: false };
    /// let alphabet = corpus.alphabet();
    /// assert_eq!(alphabet, ['a', 'b', 'c'].into()); // nothing is learned of `d`
    /// // The tokenizer of a model that begins with nothing.
    /// assert_eq!(Tokenizer::characters(&alphabet)?.len(), 3 + 2);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn alphabet(&self) -> BTreeSet<char> {
        let mut all = BTreeSet::new();
        for source in &self.train {
            match source {
                Source::Text(text) | Source::Whole(text) => all.extend(text.chars()),
                Source::Worked(w) => w.parts().for_each(|(text, _)| all.extend(text.chars())),
            }
        }
        all
    }
}

impl Worked {
    /// The parts with what they are.
    fn parts(&self) -> impl Iterator<Item = (&str, Span)> {
        let steps = self.steps.iter().zip(0..).map(|(step, i)| (step.as_str(), Span::Step(i)));
        [(self.question.as_str(), Span::Question)]
            .into_iter()
            .chain(steps)
            .chain([(self.answer.as_str(), Span::Answer)])
    }

    /// Finds the parts of a text: the question up to and with the first of `reasoning`, steps up to and with each `step`, the
    /// answer from the last of `answer` on.
    fn parse(text: &str, delimiters: &Delimiters) -> Option<Self> {
        let (question, rest) = text.split_at(text.find(&delimiters.reasoning)? + delimiters.reasoning.len());
        let (reasoning, answer) = rest.split_at(rest.rfind(&delimiters.answer)?);
        let steps = reasoning.split_inclusive(&delimiters.step).map(str::to_owned).collect();
        Some(Self { question: question.into(), steps, answer: answer.into() })
    }
}

/// A line of JSON.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected the fields `question`, `steps` and `answer`, or `text`")]
enum Line {
    Worked(Worked),
    Text { text: String },
}

fn jsonl(text: &str, file: &Path, delimiters: Option<&Delimiters>) -> Result<Vec<Source>> {
    let mut all = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = |problem: String| {
            Error::new(ErrorKind::Data, problem).file(file).place(format!("line {}", i + 1))
        };
        let line = serde_json::from_str(line)
            .map_err(|e| at(format!("this is no example ({e})")).remedy("correct or remove the line"))?;
        all.push(match (line, delimiters) {
            (Line::Worked(worked), _) => Source::Worked(worked),
            (Line::Text { text }, None) => Source::Whole(text),
            (Line::Text { text }, Some(delimiters)) => {
                let worked = Worked::parse(&text, delimiters).ok_or_else(|| {
                    at(format!("`{}` and `{}` are not both there", delimiters.reasoning, delimiters.answer))
                        .remedy("correct the line, or `delimiters` of [data]")
                })?;
                Source::Worked(worked)
            }
        });
    }
    if all.is_empty() {
        return Err(Error::new(ErrorKind::Data, "there is no example in it")
            .file(file)
            .remedy("name another file"));
    }
    Ok(all)
}

impl Corpus {
    /// The examples to learn from: [`tokenise`] of the sources, or so many of each as of the one that has the fewest, evenly spread
    /// over it, if they are to count alike.
    ///
    /// # Errors
    /// Those of [`tokenise`].
    ///
    /// ```
    /// use qat_trainer::llm::{Corpus, Source, Tokenizer};
    /// let tokenizer = Tokenizer::characters(&('a'..='z').collect())?;
    /// // Windows of two: six of the first text, two of the other.
    /// let train = ["abcdefghijkl", "wxyz"].map(|text| Source::Text(text.into())).to_vec();
    /// let mut corpus = Corpus { train, held_out: Vec::new(), equal: false };
    /// assert_eq!(corpus.learned(&tokenizer, None, 2)?.len(), 6 + 2);
    /// corpus.equal = true;
    /// let learned = corpus.learned(&tokenizer, None, 2)?;
    /// let texts = learned.iter().map(|example| tokenizer.decode(&example.tokens));
    /// assert_eq!(texts.collect::<Result<Vec<_>, _>>()?, ["ab", "gh", "wx", "yz"]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn learned(&self, tokenizer: &Tokenizer, end: Option<u32>, window: usize) -> Result<Vec<Example>> {
        let mut parts = examples(&self.train, tokenizer, end, window)?;
        if self.equal {
            let fewest = parts.iter().map(Vec::len).min().unwrap_or_default();
            for part in &mut parts {
                let all = std::mem::take(part);
                let len = all.len();
                // The first of every len/fewest: where i·fewest/len, rounded down, rises.
                let is_first = |i: usize| i == 0 || i * fewest / len > (i - 1) * fewest / len;
                part.extend(all.into_iter().enumerate().filter(|&(i, _)| is_first(i)).map(|(_, e)| e));
            }
        }
        Ok(parts.concat())
    }
}

/// Makes tokens of texts. An example by itself ends with the token `end`, if there is one; a text is cut into windows, of which
/// a last one of fewer than two tokens is left out.
///
/// # Errors
/// [`ErrorKind::Data`] for a text that the tokenizer cannot encode, and for an example longer than `window`.
///
/// ```
/// use qat_trainer::llm::{Source, Tokenizer, tokenise};
/// let tokenizer = Tokenizer::characters(&('a'..='z').collect())?;
/// // A last window of one token would predict nothing.
/// let windows = tokenise(&[Source::Text("abcdefg".into())], &tokenizer, None, 3)?;
/// assert_eq!(windows.iter().map(|window| window.tokens.len()).collect::<Vec<_>>(), [3, 3]);
/// let long = [Source::Whole("ab".into()), Source::Whole("abcd".into())];
/// let e = tokenise(&long, &tokenizer, None, 3).unwrap_err();
/// let problem = "example 2: 4 tokens are not between 2 and the window of 3";
/// assert!(e.to_string().starts_with(problem), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn tokenise(
    sources: &[Source],
    tokenizer: &Tokenizer,
    end: Option<u32>,
    window: usize,
) -> Result<Vec<Example>> {
    Ok(examples(sources, tokenizer, end, window)?.concat())
}

/// The examples of each source.
fn examples(
    sources: &[Source],
    tokenizer: &Tokenizer,
    end: Option<u32>,
    window: usize,
) -> Result<Vec<Vec<Example>>> {
    let numbered = |i: usize| move |e: Error| e.place(format!("example {}", i + 1));
    let each = sources.iter().enumerate();
    each.map(|(i, source)| examples_of(source, tokenizer, end, window).map_err(numbered(i))).collect()
}

fn examples_of(
    source: &Source,
    tokenizer: &Tokenizer,
    end: Option<u32>,
    window: usize,
) -> Result<Vec<Example>> {
    let mut example = Example { tokens: Vec::new(), spans: Vec::new() };
    let mut add = |text: &str, span| -> Result<()> {
        let tokens = tokenizer.encode(text)?;
        example.spans.resize(example.spans.len() + tokens.len(), span);
        example.tokens.extend(tokens);
        Ok(())
    };
    let last = match source {
        Source::Text(text) => {
            let tokens = tokenizer.encode(text)?;
            let windows = tokens.chunks(window).filter(|w| w.len() > 1);
            return Ok(windows
                .map(|w| Example { tokens: w.to_vec(), spans: vec![Span::Plain; w.len()] })
                .collect());
        }
        Source::Whole(text) => {
            add(text, Span::Plain)?;
            Span::Plain
        }
        Source::Worked(worked) => {
            worked.parts().try_for_each(|(text, span)| add(text, span))?;
            Span::Answer
        }
    };
    example.tokens.extend(end);
    example.spans.extend(end.map(|_| last));
    let len = example.tokens.len();
    if len > window || len < 2 {
        let problem = format!("{len} tokens are not between 2 and the window of {window}");
        return Err(Error::new(ErrorKind::Data, problem).remedy("raise `window` of [data]"));
    }
    Ok(vec![example])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delimiters() -> Delimiters {
        Delimiters { reasoning: "=".into(), step: ";".into(), answer: "#".into() }
    }

    #[test]
    fn parts_are_given_or_found_by_delimiters() {
        let worked = Worked {
            question: "1+2=".into(),
            steps: vec!["1+2=3;".into(), "so".into()],
            answer: "#3".into(),
        };
        let given = r##"{"question": "1+2=", "steps": ["1+2=3;", "so"], "answer": "#3"}"##;
        let text = "{\"text\": \"1+2=1+2=3;so#3\"}\n";
        let lines = format!("{given}\n\n{text}");
        let read = jsonl(&lines, Path::new("a.jsonl"), Some(&delimiters())).unwrap();
        assert_eq!(read, [Source::Worked(worked.clone()), Source::Worked(worked)]);
        assert_eq!(jsonl(text, Path::new("a"), None).unwrap(), [Source::Whole("1+2=1+2=3;so#3".into())]);
    }

    #[test]
    fn lines_that_are_no_examples_are_located() {
        for (line, wants) in [
            ("{", "line 2: this is no example"),
            ("{\"words\": 1}", "line 2: this is no example (expected the fields `question`"),
            ("{\"text\": \"1+2\"}", "line 2: `=` and `#` are not both there"),
        ] {
            let text = format!("{{\"text\": \"a=b#c\"}}\n{line}\n");
            let e = jsonl(&text, Path::new("a.jsonl"), Some(&delimiters())).unwrap_err().to_string();
            assert!(e.starts_with("a.jsonl: ") && e.contains(wants), "{e}");
        }
        assert!(jsonl("\n", Path::new("a.jsonl"), None).unwrap_err().to_string().contains("no example"));
    }

    #[test]
    fn tokens_know_what_they_are_part_of() {
        let tokenizer = Tokenizer::characters(&"0123456789+=;#".chars().collect()).unwrap();
        let end = tokenizer.id(Tokenizer::END);
        let worked =
            Worked { question: "1+2=".into(), steps: vec!["3;".into(), "4;".into()], answer: "#3".into() };
        let one = tokenise(&[Source::Worked(worked)], &tokenizer, end, 11).unwrap();
        let mut spans = vec![Span::Question; 4];
        spans.extend([0, 0, 1, 1].map(Span::Step));
        spans.extend([Span::Answer; 3]);
        assert_eq!(one[0].spans, spans);
        assert_eq!(one[0].tokens.last().copied(), end);

        let long = [Source::Whole("12".into()), Source::Whole("1234567".into())];
        let e = tokenise(&long, &tokenizer, end, 7).unwrap_err().to_string();
        assert!(e.contains("example 2: 8 tokens are not between 2 and the window of 7"), "{e}");
        let e = tokenise(&[Source::Text("12x".into())], &tokenizer, end, 7).unwrap_err().to_string();
        assert!(e.contains("example 1") && e.contains('x'), "{e}");
        let windows = tokenise(&[Source::Text("1234567".into())], &tokenizer, end, 3).unwrap();
        assert_eq!(windows.iter().map(|w| w.tokens.len()).collect::<Vec<_>>(), [3, 3]);
    }

    #[test]
    fn texts_that_count_alike_give_as_many_examples() {
        let tokenizer = Tokenizer::characters(&('a'..='z').collect()).unwrap();
        let train = ["abcdefghijklmn", "opqrst"].map(|text| Source::Text(text.into())).to_vec();
        let corpus = |equal| Corpus { train: train.clone(), held_out: Vec::new(), equal };
        let texts = |equal| -> Vec<String> {
            let examples = corpus(equal).learned(&tokenizer, None, 2).unwrap();
            examples.iter().map(|e| tokenizer.decode(&e.tokens).unwrap()).collect()
        };
        assert_eq!(texts(false), ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st"]);
        // Three of seven, and all of three.
        assert_eq!(texts(true), ["ab", "gh", "kl", "op", "qr", "st"]);
    }
}
