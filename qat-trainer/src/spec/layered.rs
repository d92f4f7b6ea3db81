//! A run description in layers: a preset, files that extend one another, and single values from the command line.
//!
//! Later layers win, key by key: tables are merged, everything else replaces, and a value in braces is a value. Below
//! `[model.layers]` a table stands for changes to layers that an earlier layer has listed, by their names:
//!
//! ```toml
//! extends = "digits.toml"
//! [model.layers.conv3]
//! bits = 4
//! ```

use super::origins::{Origins, parse};
use super::{DistillSpec, LlmRun, Run, Source, relative_path};
use crate::error::{Error, ErrorKind, Result};
use crate::presets;
use std::path::{Path, PathBuf};
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

/// Most files that may extend one another: more is a circle.
const MAX_DEPTH: usize = 16;

/// Where a run description comes from. At least one of `preset` and `file` is needed.
///
/// ```
/// use qat_trainer::spec::{Layers, Run};
/// let set = ["name=short".to_owned(), "train.epochs=2".to_owned()];
/// let quick = Layers { preset: Some("autoencoder"), set: &set, file: None };
/// let run = Run::layered(quick)?;
/// assert_eq!((run.name.as_str(), run.train.epochs), ("short", 2)); // `short` is no TOML: a text
/// let e = Run::layered(Layers { preset: None, ..quick }).unwrap_err();
/// assert!(e.to_string().starts_with("no run description is given"), "{e}"); // settings alone are none
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Layers<'a> {
    /// A preset (see [`crate::presets`]), the lowest layer. Its paths start at the working directory.
    pub preset: Option<&'a str>,
    /// A TOML file. Its key `extends` names a file, `preset` a preset, to stand below it.
    pub file: Option<&'a Path>,
    /// `key=value` with dotted keys, such as `train.epochs=5`. A value that is not TOML is taken as text.
    pub set: &'a [String],
}

impl Run {
    /// Reads a run description in layers.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if a file cannot be read, [`ErrorKind::Spec`] with file, line and key otherwise.
    ///
    /// ```
    /// use qat_trainer::spec::{Layers, Op, Run};
    /// let set = ["train.epochs=3", "model.layers.linear4.out=16"].map(String::from);
    /// let run = Run::layered(Layers { preset: Some("autoencoder"), set: &set, ..Layers::default() })?;
    /// assert_eq!((run.name.as_str(), run.train.epochs), ("autoencoder", 3));
    /// assert!(matches!(run.model.layers[4].op, Op::Linear { out: 16, .. })); // 8 in the preset
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn layered(from: Layers<'_>) -> Result<Self> {
        let unnamed = from.file.is_none();
        let (mut run, named) = resolve(from, Self::from_source)?;
        if let (true, false, Some(preset)) = (unnamed, named, from.preset) {
            run.name = preset.into();
        }
        Ok(run)
    }
}

impl LlmRun {
    /// Reads a run description of a language model in layers.
    ///
    /// # Errors
    /// As [`Run::layered`].
    ///
    /// ```
    /// use qat_trainer::spec::{Layers, LlmRun};
    /// # let dir = tempfile::tempdir()?;
    /// # let file = dir.path().join("sums.toml");
    /// let toml = r#"
    /// data = { format = "arithmetic" }
    /// model = { layers = 1, hidden = 16, heads = 2, mlp = 32 }
    /// train = { steps = 1000 }
    /// "#;
    /// std::fs::write(&file, toml)?;
    /// let with = |setting: &str| {
    ///     let set = [setting.to_owned()];
    ///     LlmRun::layered(Layers { file: Some(&file), set: &set, ..Layers::default() })
    /// };
    /// assert_eq!(with("train.steps=50")?.train.steps, 50);
    /// let e = with("train.steps=0").unwrap_err();
    /// assert!(e.to_string().contains("--set train.steps=0"), "{e}"); // the file is sound
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn layered(from: Layers<'_>) -> Result<Self> {
        Ok(resolve(from, Self::from_source)?.0)
    }
}

/// Puts the layers together and reads what comes out by `read`, which gets the text, the file that errors name, and the folder
/// where paths start; also whether a layer gives a name.
fn resolve<R>(
    from: Layers<'_>,
    read: impl FnOnce(Source<'_>, &Path, PathBuf) -> Result<R>,
) -> Result<(R, bool)> {
    let mut layers = Vec::new();
    if let Some(name) = from.preset {
        layers.extend(preset_layers(name)?);
    }
    if let Some(path) = from.file {
        layers.extend(file_layers(path, 0)?);
    }
    let Some(main) = layers.last() else {
        return Err(Error::new(ErrorKind::Spec, "no run description is given")
            .remedy("name a TOML file, or a preset with --preset (`qat presets` lists them)"));
    };
    // A lone file keeps its own text, with its comments and lines.
    if layers.len() == 1
        && from.set.is_empty()
        && let Some(path) = from.file
    {
        let folder = path.parent().unwrap_or(Path::new(""));
        return Ok((read(Source { text: &main.text, origins: None }, path, folder.into())?, true));
    }
    let (name, base) = (main.name.clone(), main.base.clone());
    let file = from.file.map_or_else(|| PathBuf::from(&name), Path::to_path_buf);
    for setting in from.set {
        layers.push(setting_layer(setting).map_err(|e| e.file(&file))?);
    }
    let (text, origins) = merge(layers, &base)?;
    let named = origins.knows("name");
    Ok((read(Source { text: &text, origins: Some(&origins) }, &file, base)?, named))
}

/// One source of keys.
struct Layer {
    /// What errors call it.
    name: String,
    /// Where its paths start.
    base: PathBuf,
    text: String,
    document: DocumentMut,
    origins: Origins,
}

impl Layer {
    /// `main`: whether errors name this layer's file anyway.
    fn new(name: String, main: bool, folder: &Path, text: String) -> Result<Self> {
        let source = if main { String::new() } else { format!(" of {name}") };
        let (mut document, origins) = parse(&text, &source).map_err(|e| e.file(&name))?;
        let base = match document.remove("base") {
            None => folder.into(),
            Some(Item::Value(Value::String(base))) => folder.join(base.value()),
            Some(_) => {
                return Err(Error::new(ErrorKind::Spec, "`base` is not a text")
                    .file(&name)
                    .place(origins.place(&["base"]))
                    .remedy("write the path of a folder"));
            }
        };
        Ok(Self { name, base, text, document, origins })
    }

    /// Takes out the key of a layer below this one.
    fn take(&mut self, key: &str) -> Result<Option<String>> {
        match self.document.remove(key) {
            None => Ok(None),
            Some(Item::Value(Value::String(text))) => Ok(Some(text.into_value())),
            Some(_) => Err(Error::new(ErrorKind::Spec, format!("`{key}` is not a text"))
                .file(&self.name)
                .place(self.origins.place(&[key]))
                .remedy("write a name in quotes")),
        }
    }
}

fn preset_layers(name: &str) -> Result<Vec<Layer>> {
    let preset = presets::find(name)?;
    let mut layers = Vec::new();
    if let Some(below) = preset.extends() {
        layers.extend(preset_layers(below)?);
    }
    let mut layer = Layer::new(format!("preset {name}"), false, Path::new(""), preset.toml.into())?;
    layer.take("extends")?;
    layer.base = PathBuf::new();
    layers.push(layer);
    Ok(layers)
}

fn file_layers(path: &Path, depth: usize) -> Result<Vec<Layer>> {
    let text = super::read(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut layer = Layer::new(path.display().to_string(), depth == 0, folder, text)?;
    let mut layers = Vec::new();
    if let Some(name) = layer.take("preset")? {
        let at = |e: Error| e.file(path).place(layer.origins.place(&["preset"]));
        layers.extend(preset_layers(&name).map_err(at)?);
    }
    if let Some(below) = layer.take("extends")? {
        let at = layer.origins.place(&["extends"]);
        if depth == MAX_DEPTH {
            return Err(Error::new(ErrorKind::Spec, "too many files extend one another")
                .file(path)
                .place(at)
                .remedy("look for a circle in `extends`"));
        }
        layers.extend(file_layers(&folder.join(below), depth + 1)?);
    }
    layers.push(layer);
    Ok(layers)
}

fn setting_layer(setting: &str) -> Result<Layer> {
    let name = format!("--set {setting}");
    let (key, value) = setting.split_once('=').ok_or_else(|| {
        Error::new(ErrorKind::Spec, "this is no key=value").place(&name).remedy("write --set train.epochs=5")
    })?;
    let as_text = || format!("{key} = {}", Value::from(value.trim()));
    let text = [format!("{key} = {value}"), as_text()].into_iter().find(|t| t.parse::<DocumentMut>().is_ok());
    let text = text.ok_or_else(|| {
        Error::new(ErrorKind::Spec, format!("`{key}` is no key"))
            .place(&name)
            .remedy("write section.key, such as train.epochs")
    })?;
    let mut layer = Layer::new(name.clone(), false, Path::new(""), text)?;
    layer.origins = layer.origins.all_at(&name);
    Ok(layer)
}

/// All layers in one text, and where each key of it comes from.
fn merge(layers: Vec<Layer>, base: &Path) -> Result<(String, Origins)> {
    let mut whole = DocumentMut::new();
    let mut origins = Origins::default();
    for mut layer in layers {
        if layer.base != base {
            rebase(&mut layer, base)?;
        }
        let mut step = Merge { origins: &mut origins, from: &layer.origins, layer: &layer.name };
        step.tables(whole.as_table_mut(), layer.document.as_table(), &mut Vec::new())?;
    }
    Ok((whole.to_string(), origins))
}

/// The keys that hold paths or lists of them, by section.
const PATHS: [(&str, &[&str]); 4] = [
    ("data", &["train", "test", "train_images", "train_labels", "test_images", "test_labels", "held_out"]),
    ("model", &["from"]),
    ("qat", &["codes"]),
    ("distill", &["teacher"]),
];

/// Makes the paths of a layer lead from `base` to where they led from the layer's own.
fn rebase(layer: &mut Layer, base: &Path) -> Result<()> {
    for (section, keys) in PATHS {
        let Some(section) = layer.document.get_mut(section).and_then(Item::as_table_like_mut) else {
            continue;
        };
        for key in keys {
            let Some(value) = section.get_mut(key).and_then(Item::as_value_mut) else { continue };
            match value {
                Value::Array(paths) => paths.iter_mut().try_for_each(|path| lead(path, &layer.base, base))?,
                path => lead(path, &layer.base, base)?,
            }
        }
    }
    Ok(())
}

/// Makes a path that led from the folder `from` lead from the folder `to`. What is no path stays: numbers of examples, and the
/// word for a network that teaches itself.
fn lead(path: &mut Value, from: &Path, to: &Path) -> Result<()> {
    if let Some(text) = path.as_str().filter(|text| *text != DistillSpec::SELF) {
        *path = relative_path(from, to)?.join(text).to_string_lossy().as_ref().into();
    }
    Ok(())
}

/// The merging of one layer into the whole.
struct Merge<'a> {
    origins: &'a mut Origins,
    from: &'a Origins,
    layer: &'a str,
}

impl Merge<'_> {
    fn tables(&mut self, into: &mut dyn TableLike, from: &Table, path: &mut Vec<String>) -> Result<()> {
        for (key, item) in from {
            path.push(key.into());
            match (item, into.get_mut(key)) {
                (Item::Table(changes), Some(Item::Value(Value::Array(list)))) if is_layers(path) => {
                    self.layers(list, changes, path)?;
                }
                (Item::Table(changes), Some(Item::Table(below))) => self.tables(below, changes, path)?,
                (Item::Table(changes), Some(Item::Value(Value::InlineTable(below)))) => {
                    self.tables(below, changes, path)?;
                }
                (item, _) => {
                    self.origins.replace(path, self.from);
                    into.insert(
                        key,
                        match item {
                            // Another way to write the list; changes to it look for one form only.
                            Item::ArrayOfTables(list) if is_layers(path) => {
                                Item::Value(list.clone().into_array().into())
                            }
                            // Sections keep their comments; what stands between braces has none.
                            item if path.len() <= 2 => item.clone(),
                            item => bare(item),
                        },
                    );
                }
            }
            path.pop();
        }
        Ok(())
    }

    /// Changes to single layers.
    fn layers(&mut self, list: &mut Array, changes: &Table, path: &[String]) -> Result<()> {
        for (name, keys) in changes {
            let at = || self.from.place(&[&path[0], &path[1], name]);
            let fail = |problem: String, remedy: String| {
                Err(Error::new(ErrorKind::Spec, problem).place(at()).remedy(remedy).file(self.layer))
            };
            let names: Vec<String> = list.iter().enumerate().map(|(i, layer)| layer_name(i, layer)).collect();
            let Some(index) = names.iter().position(|n| n == name) else {
                return fail(
                    format!("no layer is called `{name}`"),
                    format!("the layers are {}", names.join(", ")),
                );
            };
            let (Item::Table(keys), Some(Value::InlineTable(layer))) = (keys, list.get_mut(index)) else {
                return fail(
                    format!("`{name}` is no table of changes"),
                    format!("write [model.layers.{name}]"),
                );
            };
            for (key, value) in keys {
                let place = self.from.place(&[&path[0], &path[1], name, key]);
                let element = [&path[0], &path[1], &index.to_string(), key].map(String::from);
                self.origins.put(&element, place);
                if let Item::Value(value) = bare(value) {
                    layer.insert(key, value);
                }
            }
        }
        Ok(())
    }
}

fn is_layers(path: &[String]) -> bool {
    path == ["model", "layers"]
}

/// The name that a layer has, or will get.
fn layer_name(index: usize, layer: &Value) -> String {
    let text = |key: &str| layer.as_inline_table().and_then(|t| t.get(key)).and_then(Value::as_str);
    text("name").map_or_else(|| format!("{}{index}", text("op").unwrap_or_default()), String::from)
}

/// The item without the comments around it, which have no place between braces.
fn bare(item: &Item) -> Item {
    match item.clone().into_value() {
        Ok(value) => Item::Value(value.decorated(" ", "")),
        Err(item) => item,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Files, LlmFiles, LlmModelSpec, TeacherSource, tests::MLP};
    use std::fs;

    /// A folder with `base/run.toml` and `top.toml` that extends it by `changes`.
    fn folder(changes: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("base")).unwrap();
        fs::write(dir.path().join("base/run.toml"), MLP).unwrap();
        fs::write(dir.path().join("top.toml"), format!("extends = \"base/run.toml\"\n{changes}")).unwrap();
        dir
    }

    fn load(changes: &str, set: &[&str]) -> Result<Run> {
        let dir = folder(changes);
        let set: Vec<String> = set.iter().map(|s| (*s).into()).collect();
        Run::layered(Layers { file: Some(&dir.path().join("top.toml")), set: &set, ..Layers::default() })
    }

    fn bits(run: &Run) -> Vec<u8> {
        run.model.layers.iter().filter_map(|l| l.op.quant()).map(|q| q.levels.bits()).collect()
    }

    #[test]
    fn later_layers_win_key_by_key() {
        let run = load("name = \"new\"\n[train]\nlr = 0.5 # why\n", &[]).unwrap();
        assert_eq!((run.name.as_str(), run.train.lr, run.train.epochs), ("new", 0.5, 3));
        let run =
            load("[train]\nlr = 0.5\n", &["train.lr=0.25", "train.augment.shift=2", "name=2bit"]).unwrap();
        assert_eq!((run.name.as_str(), run.train.lr, run.train.augment.shift), ("2bit", 0.25, 2.0));
        // A value in braces replaces what was there, a dotted key changes it.
        let set = ["train.augment={ shift = 1, rotate = 5 }", "train.augment.shift=2"];
        assert_eq!(load("", &set).unwrap().train.augment.rotate, 5.0);
        let set = ["qat.step={ pi = { k = 4 } }", "qat.step={ pi = { k = 3 } }"];
        assert!(load("", &set).is_ok());
    }

    #[test]
    fn layers_are_changed_by_name() {
        assert_eq!(bits(&load("", &[]).unwrap()), [8, 2]);
        let run = load("[model.layers.linear1]\nbits = 4 # more\ngrid = \"mid-rise\"\n", &[]).unwrap();
        assert_eq!(bits(&run), [8, 4]);
        assert_eq!(bits(&load("", &["model.layers.linear0.bits=3"]).unwrap()), [3, 2]);
        let e = load("[model.layers.conv9]\nbits = 4\n", &[]).unwrap_err().to_string();
        assert!(
            e.contains("top.toml: line 3: ") && e.contains("`conv9`") && e.contains("linear0, linear1"),
            "{e}"
        );
        // The list itself can still be replaced, in both of its forms.
        let run = load("[[model.layers]]\nop = \"linear\"\nout = 3\n", &["model.layers.linear0.bits=5"]);
        assert_eq!(bits(&run.unwrap()), [5]);
    }

    #[test]
    fn paths_start_where_they_were_written() {
        let dir = folder("[data]\ntest = \"t.csv\"\n");
        let file = dir.path().join("top.toml");
        let run = Run::layered(Layers { file: Some(&file), ..Layers::default() }).unwrap();
        let Files::Csv { train, test, .. } = run.data.files else { panic!() };
        assert_eq!(train, dir.path().join("base/train.csv"));
        assert_eq!(test, Some(dir.path().join("t.csv")));
        let below = format!("{MLP}\n[distill]\nteacher = \"../big\"\n");
        fs::write(dir.path().join("base/run.toml"), below).unwrap();
        let teacher = |set: &[String]| {
            let layers = Layers { file: Some(&file), set, ..Layers::default() };
            Run::layered(layers).unwrap().distill.unwrap().teacher
        };
        assert_eq!(teacher(&[]), TeacherSource::Run(dir.path().join("base/../big")));
        assert_eq!(teacher(&["distill.teacher=self".into()]), TeacherSource::Own);
    }

    #[test]
    fn paths_of_language_models_start_where_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("base");
        fs::create_dir(&below).unwrap();
        let text = "[data]\nformat = \"text\"\ntrain = [\"a.txt\"]\nheld_out = [\"b.txt\"]\n\
            [model]\nfrom = \"model\"\n[train]\nsteps = 1\n[qat]\nbits = 3\ncodes = \"codes.safetensors\"\n\
            [distill]\nteacher = \"model\"\n";
        fs::write(below.join("run.toml"), text).unwrap();
        let file = dir.path().join("top.toml");
        fs::write(&file, "extends = \"base/run.toml\"\n[train]\nsteps = 2\n").unwrap();
        let run = LlmRun::layered(Layers { file: Some(&file), ..Layers::default() }).unwrap();
        let LlmFiles::Text { train, held_out, .. } = run.data.files else { panic!() };
        assert_eq!((train, held_out), (vec![below.join("a.txt")], vec![below.join("b.txt")]));
        assert_eq!(run.model, LlmModelSpec::Files(below.join("model")));
        assert_eq!(run.qat.unwrap().codes, Some(below.join("codes.safetensors")));
        assert_eq!(run.distill.unwrap().teacher, below.join("model"));
    }

    #[test]
    fn descriptions_of_one_model_share_their_files() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let files = configs.join("../../.cache");
        for name in ["smollm2-3bit", "smollm2-2bit", "smollm2-3bit-lora", "smollm2-2bit-lora"] {
            let file = configs.join(name).with_extension("toml");
            let run = LlmRun::layered(Layers { file: Some(&file), ..Layers::default() }).unwrap();
            let bits = if name.contains("2bit") { 2 } else { 3 };
            let codes = files.join(format!("smollm2-ptq_two_texts_{bits}bit/codes.safetensors"));
            assert_eq!(run.qat.unwrap().codes, Some(codes), "{name}");
            assert_eq!(run.model, LlmModelSpec::Files(run.distill.unwrap().teacher), "{name}");
            assert_eq!(
                run.model,
                LlmModelSpec::Files(files.join("SmolLM2-135M-Instruct.Q4_1.gguf")),
                "{name}"
            );
        }
    }

    #[test]
    fn mistakes_are_found_where_they_were_written() {
        let error = |changes: &str, set: &[&str]| load(changes, set).unwrap_err().to_string();
        for (changes, set, wants) in [
            ("[train]\n\nlr = -1.0\n", vec![], ["top.toml: line 4, ", "`lr` of [train]"]),
            ("[train]\nlrr = 1.0\n", vec![], ["top.toml: line 3: ", "unknown field `lrr`"]),
            ("", vec!["train.epochs=0"], ["--set train.epochs=0", "`epochs` of [train]"]),
            ("", vec!["train.epoch=1"], ["--set train.epoch=1", "unknown field `epoch`"]),
            (
                "",
                vec!["model.layers.linear1.bits=1"],
                ["run.toml, changed in --set model.layers.linear1.bits=1: ", "2 to 8"],
            ),
            ("", vec!["train.epochs"], ["--set train.epochs", "key=value"]),
            ("", vec!["=3"], ["--set =3", "no key"]),
            ("[train\n", vec![], ["top.toml", "line 2"]),
            ("preset = \"none\"\n", vec![], ["top.toml: line 2: ", "no preset `none`"]),
            (
                "[model.layers.linear1]\nkernel = 3\n",
                vec![],
                ["line 10 of ", "changed in line 3: `kernel` has no meaning"],
            ),
        ] {
            let e = error(changes, &set);
            assert!(wants.iter().all(|want| e.contains(want)) && !e.contains('\n'), "{e}");
        }
        // What is wrong in the lower file is said of the lower file.
        let dir = folder("name = \"x\"\n");
        fs::write(dir.path().join("base/run.toml"), MLP.replace("epochs = 3", "epochs = 0")).unwrap();
        let e = Run::load(dir.path().join("top.toml")).unwrap_err().to_string();
        assert!(e.contains("line 14 of ") && e.contains("base/run.toml"), "{e}");
        fs::write(dir.path().join("base/run.toml"), "extends = \"../top.toml\"").unwrap();
        assert!(Run::load(dir.path().join("top.toml")).unwrap_err().to_string().contains("circle"));
    }

    #[test]
    fn every_preset_is_complete_and_says_what_it_is() {
        for preset in presets::PRESETS {
            let run = Run::layered(Layers { preset: Some(preset.name), ..Layers::default() }).unwrap();
            assert!(!preset.summary().is_empty() && run.base == Path::new(""), "{}", preset.name);
            let file =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(format!("{}.toml", preset.name));
            let same = Run::load(file).unwrap();
            let layers = |run: &Run| run.model.layers.iter().map(|l| l.op.clone()).collect::<Vec<_>>();
            assert_eq!(layers(&same), layers(&run));
            assert_eq!((same.name, same.train, same.qat), (run.name, run.train, run.qat));
        }
        assert!(Run::layered(Layers::default()).unwrap_err().to_string().contains("--preset"));
    }
}
