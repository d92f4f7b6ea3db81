//! The loop on decoders that learn in a moment.

use super::*;
use std::path::Path;

/// One operation, few problems, a decoder of one block.
pub(super) const SUMS: &str = r#"
[data]
format = "arithmetic"
problems = 64
held_out = 8
operations = 1
window = 24

[model]
layers = 1
hidden = 16
heads = 2
mlp = 32
context = 24

[train]
steps = 6
batch = 4
lr = 1e-2
warm_up = 2
weight_decay = 0.1
judge_every = 3
"#;

pub(super) fn run(text: &str) -> LlmRun {
    LlmRun::parse(text, Path::new("sums.toml")).unwrap()
}

pub(super) fn learner(run: &LlmRun) -> (LanguageModel, Corpus) {
    learner_in(run, Kind::Float)
}

fn learner_in(run: &LlmRun, kind: Kind) -> (LanguageModel, Corpus) {
    let corpus = Corpus::load(&run.data).unwrap();
    let mut model = start(run, &corpus, kind, Device::Cpu).unwrap();
    LlmTrainer::new(run, &corpus, &model).unwrap().prepare(&mut model.decoder).unwrap();
    (model, corpus)
}

/// Keeps every checkpoint, and stops after some steps.
#[derive(Default)]
struct Keeper {
    events: Vec<QatEvent>,
    states: Vec<LlmCheckpoint>,
    stop_after: Option<usize>,
}

impl Listener<LlmCheckpoint> for Keeper {
    fn event(&mut self, event: &QatEvent) {
        if !matches!(event, QatEvent::Resumed { .. }) {
            self.events.push(event.clone());
        }
    }

    fn checkpoint(&mut self, state: &LlmCheckpoint) -> Result<()> {
        self.states.push(state.clone());
        Ok(())
    }

    fn wants_checkpoint(&mut self) -> bool {
        true
    }

    fn wants_stop(&mut self) -> bool {
        self.stop_after.is_some_and(|n| self.states.len() + 1 >= n)
    }
}

fn tensors(model: &LanguageModel) -> Vec<Vec<f32>> {
    let flat = |t: Tensor| Vec::<f32>::try_from(t.detach().reshape(-1).to_kind(Kind::Float)).unwrap();
    model.decoder.tensors().unwrap().into_iter().map(|(_, t)| flat(t)).collect()
}

#[test]
fn a_resumed_training_ends_with_the_same_bits_and_events() {
    for extra in [
        "",
        "[qat]\nbits = 2\ntable_bits = 4\nstep = { pi-adaptive = { group = 8 } }",
        "accumulate = 2\nrecompute = true\nclip_norm = 0.1\n",
        "[qat]\nbits = 2\nblock = 16\n[lora]\nrank = 3",
        "[qat]\nbits = 3\n[lora]\nmode = \"merged\"\nrank = 2\ntargets = [\"up_proj\", \"v_proj\"]",
        "[qat]\nbits = 2\n[lora]\nmode = \"scales\"",
    ] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let run = run(&format!("{SUMS}{extra}"));
            let (mut whole, corpus) = learner_in(&run, kind);
            let trainer = LlmTrainer::new(&run, &corpus, &whole).unwrap();
            let mut through = Keeper::default();
            trainer.train(&mut whole, None, &mut through).unwrap();

            let mut first = Keeper { stop_after: Some(4), ..Keeper::default() };
            let (mut model, _) = learner_in(&run, kind);
            let e = trainer.train(&mut model, None, &mut first).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Stopped);
            let state = LlmCheckpoint::from_bytes(&first.states.pop().unwrap().to_bytes().unwrap()).unwrap();
            assert_eq!(state.steps(), 4);
            let (mut model, _) = learner_in(&run, kind);
            let mut rest = Keeper::default();
            trainer.train(&mut model, Some(&state), &mut rest).unwrap();
            assert_eq!(tensors(&model), tensors(&whole));
            assert_eq!(rest.states.last(), through.states.last());
            first.events.truncate(state.events() as usize);
            assert_eq!([first.events, rest.events].concat(), through.events);
        }
    }
}

#[test]
fn what_is_judged_falls_with_what_is_learned() {
    for kind in [Kind::Float, Kind::BFloat16] {
        learns_in(kind);
    }
}

fn learns_in(kind: Kind) {
    let run = run(&SUMS.replace("steps = 6", "steps = 60"));
    let (mut model, corpus) = learner_in(&run, kind);
    let trainer = LlmTrainer::new(&run, &corpus, &model).unwrap();
    let (before, exact) = trainer.judge(&model, 8).unwrap();
    assert_eq!(exact.problems, trainer.held_out());
    let mut keeper = Keeper::default();
    trainer.train(&mut model, None, &mut keeper).unwrap();
    let judged: Vec<f64> = keeper
        .events
        .iter()
        .filter_map(|e| if let QatEvent::Judged { loss, .. } = e { Some(*loss) } else { None })
        .collect();
    assert_eq!(judged.len(), 20);
    assert!(judged[19] < judged[0] && judged[19] < before - 0.5, "{before} {judged:?}");
}

#[test]
fn a_state_of_other_numbers_is_refused() {
    let run = run(SUMS);
    let (mut model, corpus) = learner(&run);
    let mut keeper = Keeper::default();
    LlmTrainer::new(&run, &corpus, &model).unwrap().train(&mut model, None, &mut keeper).unwrap();
    let (mut other, _) = learner_in(&run, Kind::BFloat16);
    let trainer = LlmTrainer::new(&run, &corpus, &other).unwrap();
    let e = trainer.train(&mut other, keeper.states.last(), &mut Keeper::default()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Checkpoint);
    assert!(e.to_string().contains("begun in f32, not in bf16") && e.to_string().contains("--dtype"), "{e}");
}

#[test]
fn what_learns_on_one_device_alone_is_not_left_out_in_silence() {
    let run = run(&format!("{SUMS}[qat]\nbits = 2\n[lora]\nrank = 2\n"));
    let (mut model, corpus) = learner(&run);
    let trainer = LlmTrainer::new(&run, &corpus, &model).unwrap();
    let mut keeper = Keeper::default();
    trainer.train(&mut model, None, &mut keeper).unwrap();
    let state = keeper.states.pop().unwrap();
    assert_eq!(state.begun(), Computing::of(&model.decoder));
    // Begun on a GPU, with the same names: it goes on; with one more: it does not.
    let begun = Computing { device: Processor::Cuda, ..state.begun() };
    let there = |extra: Option<&str>| {
        let mut state = state.on(begun);
        if let Some(name) = extra {
            state.with(name);
        }
        let bytes = state.to_bytes().unwrap();
        let state = LlmCheckpoint::from_bytes(&bytes).unwrap();
        assert_eq!(state.begun(), begun);
        let (mut model, _) = learner(&run);
        trainer.train(&mut model, Some(&state), &mut Keeper::default())
    };
    there(None).unwrap();
    let e = there(Some("q_proj.bias")).unwrap_err();
    assert!(
        e.kind() == ErrorKind::Checkpoint && e.to_string().contains("`q_proj.bias` learns on one"),
        "{e}"
    );
}

#[test]
fn a_decoder_begins_with_the_same_numbers_in_any_kind() {
    let run = run(SUMS);
    let corpus = Corpus::load(&run.data).unwrap();
    let [wide, halves] = [Kind::Float, Kind::BFloat16].map(|kind| {
        let model = start(&run, &corpus, kind, Device::Cpu).unwrap();
        assert_eq!(model.decoder.kind(), kind);
        model.decoder.tensors().unwrap()
    });
    for ((name, a), (_, b)) in wide.iter().zip(&halves) {
        assert!(a.to_kind(Kind::BFloat16).equal(b), "{name}");
    }
}

fn weights(decoder: &Decoder) -> Vec<Vec<u32>> {
    let bits = |t: Tensor| {
        Vec::<f32>::try_from(t.detach().reshape(-1)).unwrap().into_iter().map(f32::to_bits).collect()
    };
    decoder.tensors().unwrap().into_iter().map(|(_, t)| bits(t)).collect()
}

#[test]
fn a_quantised_student_nears_its_teacher_whose_bits_never_change() {
    let dir = tempfile::tempdir().unwrap();
    let float = run(&SUMS.replace("steps = 6", "steps = 40"));
    let (mut model, corpus) = learner(&float);
    LlmTrainer::new(&float, &corpus, &model)
        .unwrap()
        .train(&mut model, None, &mut Keeper::default())
        .unwrap();
    model.save(dir.path()).unwrap();
    let folder = dir.path().display();
    let shape = SUMS.split("[model]").nth(1).unwrap().split("[train]").next().unwrap();
    for reasoning in ["", "reasoning = { weight = 0.5 }"] {
        let distill =
            format!("[qat]\nbits = 2\n[distill]\nteacher = \"{folder}\"\ntask_weight = 0.0\n{reasoning}\n");
        let text =
            SUMS.replace(shape, &format!("\nfrom = \"{folder}\"\n")).replace("steps = 6", "steps = 20");
        let run = run(&format!("{text}{distill}"));
        let corpus = Corpus::load(&run.data).unwrap();
        let mut model = start(&run, &corpus, Kind::Float, Device::Cpu).unwrap();
        let trainer = LlmTrainer::new(&run, &corpus, &model).unwrap();
        assert!(trainer.prepare(&mut model.decoder).unwrap().unwrap() > 2.0);
        let teacher = trainer.teacher().unwrap().decoder();
        let before = weights(teacher);
        assert!(teacher.leaves().is_empty());
        let mut keeper = Keeper::default();
        trainer.train(&mut model, None, &mut keeper).unwrap();
        assert_eq!(weights(teacher), before);
        let losses: Vec<f64> = keeper
            .events
            .iter()
            .filter_map(|e| if let QatEvent::StepDone { loss, .. } = e { Some(*loss) } else { None })
            .collect();
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        assert!(mean(&losses[15..]) < 0.7 * mean(&losses[..5]), "{losses:?}");
    }
}

#[test]
fn states_of_other_trainings_are_refused() {
    let run = run(SUMS);
    let (mut model, corpus) = learner(&run);
    let trainer = LlmTrainer::new(&run, &corpus, &model).unwrap();
    let mut keeper = Keeper { stop_after: Some(1), ..Keeper::default() };
    trainer.train(&mut model, None, &mut keeper).unwrap_err();
    let state = keeper.states.pop().unwrap();
    for (from, to) in
        [("lr = 1e-2", "lr = 2e-2"), ("problems = 64", "problems = 63"), ("steps = 6", "seed = 2\nsteps = 6")]
    {
        let other = super::tests::run(&SUMS.replace(from, to));
        let (mut model, corpus) = learner(&other);
        let trainer = LlmTrainer::new(&other, &corpus, &model).unwrap();
        let e = trainer.train(&mut model, Some(&state), &mut Keeper::default()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Checkpoint, "{to}");
    }
    let bytes = state.to_bytes().unwrap();
    for n in (0..bytes.len()).step_by(97) {
        assert!(LlmCheckpoint::from_bytes(&bytes[..n]).is_err(), "{n}");
    }
    let e =
        LlmCheckpoint::from_bytes(&crate::checkpoint::Checkpoint::default().to_bytes().unwrap()).unwrap_err();
    assert!(e.to_string().contains("`llm-training`"), "{e}");
}

#[test]
fn what_cannot_be_trained_says_why() {
    let refused = |text: &str| {
        let run = run(text);
        let corpus = Corpus::load(&run.data).unwrap();
        let model = start(&run, &corpus, Kind::Float, Device::Cpu)?;
        LlmTrainer::new(&run, &corpus, &model).map(|_| ())
    };
    for (from, to, expected) in [
        ("batch = 4", "batch = 65", "64 examples do not fill a batch of 65"),
        ("window = 24", "window = 26", "a window of 26 tokens does not fit into the model's context of 24"),
        ("window = 24", "window = 9", "are not between 2 and the window of 9"),
        ("layers = 1", "layers = 0", "the number of layers is 0"),
    ] {
        let e = refused(&SUMS.replace(from, to)).unwrap_err().to_string();
        assert!(e.starts_with("sums.toml") && e.contains(expected), "{e}");
    }
    let run = run(SUMS);
    let corpus = Corpus::load(&run.data).unwrap();
    let mut model = start(&run, &corpus, Kind::Float, Device::Cpu).unwrap();
    let trainer = LlmTrainer::new(&run, &corpus, &model).unwrap();
    let e = trainer.train(&mut model, None, &mut Keeper::default()).unwrap_err();
    assert!(e.to_string().contains("nothing of this model learns"), "{e}");
}
