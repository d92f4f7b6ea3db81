//! The frozen network that a student learns from.

use super::batches::Batch;
use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::distill::{DistillationLoss, FeatureLoss};
use crate::error::{Error, ErrorKind, Result};
use crate::export::About;
use crate::nn::{FloatNet, Network};
use crate::spec::{DistillSpec, ModelSpec, Run, TeacherSource};
use qat_kernels::QatLossWeights;
use std::path::Path;
use tch::Tensor;

/// A teacher, and how it is learned from.
pub(super) struct Teacher {
    net: FloatNet,
    loss: DistillationLoss,
    features: Vec<Pair>,
}

/// Two layers that are to agree, by index.
struct Pair {
    student: usize,
    teacher: usize,
    weight: f64,
    loss: FeatureLoss,
}

impl Teacher {
    /// The teacher of `run`, of which `own` is the floating-point result.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] naming a layer that the teacher has not; those of reading its run folder; and
    /// [`ErrorKind::Data`] if it was trained on other data.
    pub(super) fn new(run: &Run, data: &Dataset, spec: &DistillSpec, own: &Checkpoint) -> Result<Self> {
        let net = match &spec.teacher {
            TeacherSource::Own => FloatNet::load(&run.model, data.shape, own)?,
            TeacherSource::Run(folder) => {
                let (model, checkpoint) = read(folder, data)?;
                FloatNet::load(&model, data.shape, &checkpoint)
                    .map_err(|e| e.file(folder.join(CHECKPOINT)))?
            }
        };
        let index = |model: &ModelSpec, name: &str, whose: &str| {
            model.layers.iter().position(|l| l.name == name).ok_or_else(|| {
                let names: Vec<&str> = model.layers.iter().map(|l| l.name.as_str()).collect();
                Error::new(ErrorKind::Spec, format!("the {whose} has no layer `{name}`"))
                    .place("`features` of [distill]")
                    .file(&run.file)
                    .remedy(format!("its layers are {}", names.join(", ")))
            })
        };
        let pair = |f: &crate::spec::Feature| -> Result<Pair> {
            Ok(Pair {
                student: index(&run.model, &f.student, "student")?,
                teacher: index(net.spec(), &f.teacher, "teacher")?,
                weight: f.weight.into(),
                loss: f.loss,
            })
        };
        let features = spec.features.iter().map(pair).collect::<Result<_>>()?;
        let weights =
            QatLossWeights { task: spec.task_weight, distillation: spec.weight, ..QatLossWeights::default() };
        let loss = DistillationLoss::new(weights, spec.temperature, spec.divergence)?;
        Ok(Self { net, loss, features })
    }

    /// The student's loss on a batch, given how to find that of the task from its logits.
    pub(super) fn loss(
        &self,
        student: &dyn Network,
        batch: &Batch,
        task: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (answer, theirs) = tch::no_grad(|| {
            outputs(&self.net, batch, false, self.features.iter().map(|f| f.teacher).collect())
        })?;
        let (logits, ours) =
            outputs(student, batch, true, self.features.iter().map(|f| f.student).collect())?;
        let mut total = self.loss.total(&task(&logits)?, &logits, &answer, &batch.labels)?;
        for ((pair, ours), theirs) in self.features.iter().zip(&ours).zip(&theirs) {
            total = total.f_add(&pair.loss.of(ours, theirs)?.f_mul_scalar(pair.weight)?)?;
        }
        Ok(total)
    }

    /// All numbers of the teacher.
    #[cfg(test)]
    pub(super) fn save(&self) -> Result<Checkpoint> {
        self.net.save()
    }
}

/// The logits of a batch, and the outputs of some layers.
fn outputs(
    net: &dyn Network,
    batch: &Batch,
    train: bool,
    layers: Vec<usize>,
) -> Result<(Tensor, Vec<Tensor>)> {
    let mut seen: Vec<Tensor> = layers.iter().map(|_| Tensor::new()).collect();
    let logits = net.forward_seen(&batch.x, train, &mut |i, y| {
        for (slot, _) in seen.iter_mut().zip(&layers).filter(|(_, layer)| **layer == i) {
            *slot = y.shallow_clone();
        }
    })?;
    Ok((logits, seen))
}

const CHECKPOINT: &str = "fp32.safetensors";

/// The floating-point network of a run folder, if it was trained on this data.
fn read(folder: &Path, data: &Dataset) -> Result<(ModelSpec, Checkpoint)> {
    let run = Run::load(folder.join("config.toml"))?;
    let path = folder.join(CHECKPOINT);
    let checkpoint = Checkpoint::load(&path)?;
    let about = About::load(&checkpoint).map_err(|e| e.file(&path))?;
    let same = about.shape == data.shape
        && about.classes == data.classes
        && about.standardisation == data.standardisation;
    if !same {
        return Err(Error::new(
            ErrorKind::Data,
            "the teacher was trained on other classes, shapes or standardisation than the student",
        )
        .file(&path)
        .remedy("train a teacher with the same [data]"));
    }
    run.model.check(data.shape, data.classes.len()).map_err(|e| e.file(&run.file))?;
    Ok((run.model, checkpoint))
}

/// What identifies the teacher of a run description, beside its text: the bytes of its checkpoint.
pub(super) fn identity(spec: Option<&DistillSpec>) -> Result<Vec<u8>> {
    match spec.map(|s| &s.teacher) {
        Some(TeacherSource::Run(folder)) => {
            let path = folder.join(CHECKPOINT);
            std::fs::read(&path).map_err(|e| Error::io("read", path, &e))
        }
        Some(TeacherSource::Own) | None => Ok(Vec::new()),
    }
}
