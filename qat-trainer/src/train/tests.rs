//! Small trainings, through both phases.

use super::*;
use crate::affine::Affine;
use crate::data::{Split, Standardisation};
use crate::export::{About, export_checkpoint};
use crate::random::{Purpose, Random};
use crate::spec::{Op, Shape};

/// Every operator, 8×8 grey images, 3 classes.
pub(crate) fn small_cnn(seed: u64) -> Run {
    let text = format!(
        r#"
[data]
format = "idx"
train_images = "-"
train_labels = "-"
test_images = "-"
test_labels = "-"
[model]
layers = [
  {{ op = "conv", name = "stem", out = 4, kernel = 3, pad = 1, bn = true, act = "relu", bits = 8 }},
  {{ op = "max-pool", name = "pool", kernel = 2 }},
  {{ op = "depthwise", kernel = 3, pad = 1, bn = true, act = "relu6", bits = 4 }},
  {{ op = "conv", out = 4, kernel = 3, pad = 1, bn = true }},
  {{ op = "add", from = "pool", act = "relu" }},
  {{ op = "avg-pool", kernel = 2 }},
  {{ op = "global-avg-pool" }},
  {{ op = "linear", out = 3, bits = 8, incoherence = true }},
]
[train]
epochs = 6
batch = 16
lr = 0.02
clip_norm = 5.0
ema = 0.5
label_smoothing = 0.05
augment = {{ shift = 0.5, rotate = 5, scale = 0.05 }}
seed = {seed}
[qat]
bits = 3
grid = "mid-rise"
step = {{ pi = {{ k = 4 }} }}
epochs = 4
learning_rate = 0.01
"#
    );
    Run::parse(&text, "run.toml".as_ref()).unwrap()
}

/// Images whose brightest quarter is the class, with noise.
pub(crate) fn quarters() -> Dataset {
    let mut random = Random::new(99, Purpose::Order(7));
    let mut split = |n: usize| {
        let mut split = Split::default();
        for _ in 0..n {
            let class = random.below(3);
            for i in 0..64 {
                let quarter = (i / 32) * 2 + (i % 8) / 4;
                let signal = if quarter == class { 1.0 } else { 0.0 };
                split.features.push((signal + 0.4 * random.symmetric()).clamp(-1.0, 1.5));
            }
            split.labels.push(class as u32);
        }
        split
    };
    Dataset {
        train: split(200),
        test: split(100),
        classes: ["a", "b", "c"].map(String::from).to_vec(),
        shape: Shape { h: 8, w: 8, c: 1 },
        standardisation: Standardisation::none(),
        input: Affine::from_range(-1.0, 1.5),
        sha256: [0; 32],
    }
}

/// The same network with every way of training that has a state of its own: k chosen anew, stages of bits, importance of
/// weights, averages, examples held back, batches added up, SGD.
fn with_everything(seed: u64) -> Run {
    let text = small_cnn(seed).text;
    let change = |text: String, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let text = change(
        text,
        "{ op = \"conv\", out = 4, kernel = 3, pad = 1, bn = true }",
        "{ op = \"conv\", name = \"k\", out = 4, kernel = 2, stride = 2, bn = true, step = { pi-adaptive = { group = 16 } } }",
    );
    let text = change(
        text,
        "{ op = \"add\", from = \"pool\", act = \"relu\" },\n  { op = \"avg-pool\", kernel = 2 },\n",
        "",
    );
    let text = change(
        text,
        "batch = 16",
        "batch = 8\naccumulate = 2\noptimizer = { sgd = { nesterov = true } }\nvalidation = 0.1\nkeep = \"best\"\npatience = 3\nclass_weights = \"balanced\"",
    );
    let text = change(
        text,
        "bits = 3\n",
        "bits = 3\nprogressive = [5]\nchoose_k_every = 3\nactivation_bits = 4\nimportance = \"fisher\"\n",
    );
    Run::parse(&text, "run.toml".as_ref()).unwrap()
}

fn train(seed: u64) -> (Outcome, Vec<QatEvent>) {
    let (run, data) = (small_cnn(seed), quarters());
    let mut events = Vec::new();
    let outcome =
        QatTrainer::new(&run, &data).unwrap().train(&mut |e: &QatEvent| events.push(e.clone())).unwrap();
    (outcome, events)
}

/// Gradients pass through sigmoids and their fixed codes; the softmax is in the file, and nowhere before it.
#[test]
fn sigmoids_learn_and_a_softmax_is_only_exported() {
    let data = quarters();
    let train = |closing: &str| {
        let text = small_cnn(5).text;
        let (start, end) = (text.find("layers").unwrap(), text.find("[train]").unwrap());
        let layers = format!(
            r#"layers = [
  {{ op = "flatten" }},
  {{ op = "linear", out = 12, bn = true, act = "sigmoid", bits = 4 }},
  {{ op = "linear", out = 8, bits = 4 }},
  {{ op = "sigmoid" }},
  {{ op = "linear", out = 3, bits = 8 }},{closing}
]
"#
        );
        let text = format!("{}{layers}{}", &text[..start], &text[end..]).replace("augment", "# augment");
        let run = Run::parse(&text, "run.toml".as_ref()).unwrap();
        let trainer = QatTrainer::new(&run, &data).unwrap();
        let outcome = trainer.train(&mut |_: &QatEvent| ()).unwrap();
        (run, outcome)
    };
    let ((plain, logits), (closed, shares)) = (train(""), train("{ op = \"softmax\" }"));
    assert!(logits.quantised.test_accuracy > 0.95, "{}", logits.quantised.test_accuracy);
    assert_eq!(logits.quantised.checkpoint.tensors, shares.quantised.checkpoint.tensors);
    assert_eq!((plain.model.layers.len(), closed.model.softmax), (6, true));
}

#[test]
fn learns_and_reports() {
    let (outcome, events) = train(3);
    assert!(outcome.float.test_accuracy > 0.95, "{}", outcome.float.test_accuracy);
    assert!(outcome.quantised.test_accuracy > 0.95, "{}", outcome.quantised.test_accuracy);
    let count = |f: fn(&QatEvent) -> bool| events.iter().filter(|e| f(e)).count();
    assert_eq!(count(|e| matches!(e, QatEvent::PhaseStarted { .. })), 2);
    assert_eq!(count(|e| matches!(e, QatEvent::StepDone { .. })), 10 * (200 / 16));
    assert_eq!(count(|e| matches!(e, QatEvent::EpochDone { .. })), 10);
    assert_eq!(count(|e| matches!(e, QatEvent::Calibrated { .. })), 6);
    assert!(matches!(events.last(), Some(QatEvent::PhaseDone { phase: Phase::Quantised, .. })));
}

#[test]
fn one_seed_gives_one_result_bit_for_bit_and_another_another() {
    let (a, events_a) = train(5);
    let (b, events_b) = train(5);
    assert_eq!(a.float.checkpoint.to_bytes().unwrap(), b.float.checkpoint.to_bytes().unwrap());
    assert_eq!(a.quantised.checkpoint.to_bytes().unwrap(), b.quantised.checkpoint.to_bytes().unwrap());
    assert_eq!(events_a, events_b);
    let (c, _) = train(6);
    assert_ne!(a.float.checkpoint, c.float.checkpoint);
}

#[test]
fn checkpoints_bring_their_accuracy_back() {
    let (run, data) = (small_cnn(2), quarters());
    let trainer = QatTrainer::new(&run, &data).unwrap();
    let outcome = trainer.train(&mut |_: &QatEvent| ()).unwrap();
    let (float, quantised) = (outcome.float, outcome.quantised);
    assert_eq!(trainer.evaluate_float(&float.checkpoint).unwrap(), float.test_accuracy);
    assert_eq!(trainer.evaluate_quantised(&quantised.checkpoint).unwrap(), quantised.test_accuracy);
    let e = trainer.evaluate_quantised(&float.checkpoint).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Checkpoint);
}

#[test]
fn misfits_are_refused_before_anything_runs() {
    let (run, mut data) = (small_cnn(1), quarters());
    data.classes.push("d".into());
    assert_eq!(QatTrainer::new(&run, &data).unwrap_err().kind(), ErrorKind::Spec);
    let mut data = quarters();
    data.test = Split::default();
    assert_eq!(QatTrainer::new(&run, &data).unwrap_err().kind(), ErrorKind::Data);
}

#[test]
fn divergence_is_an_error_that_says_where() {
    let (mut run, data) = (small_cnn(1), quarters());
    (run.train.lr, run.train.weight_decay) = (1e30, 0.0);
    // Batch normalisation would keep the loss finite.
    for l in &mut run.model.layers {
        if let Op::Conv { bn, .. } | Op::Depthwise { bn, .. } = &mut l.op {
            *bn = false;
        }
    }
    let e = QatTrainer::new(&run, &data).unwrap().train(&mut |_: &QatEvent| ()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Train);
    assert!(e.to_string().contains("float phase, epoch"), "{e}");
}

/// Keeps every checkpoint, with the events until then, and stops after some steps.
#[derive(Default)]
struct Keeper {
    /// Events of a training before it was resumed.
    before: usize,
    resumed: usize,
    events: Vec<QatEvent>,
    states: Vec<(TrainingCheckpoint, usize)>,
    stop_after: Option<usize>,
}

impl Listener for Keeper {
    fn event(&mut self, event: &QatEvent) {
        match event {
            QatEvent::Resumed { .. } => self.resumed += 1,
            event => self.events.push(event.clone()),
        }
    }

    fn wants_checkpoint(&mut self) -> bool {
        true
    }

    fn checkpoint(&mut self, state: &TrainingCheckpoint) -> Result<()> {
        assert_eq!(state.events() as usize, self.before + self.events.len());
        self.states.push((state.clone(), self.events.len()));
        Ok(())
    }

    fn wants_stop(&mut self) -> bool {
        self.stop_after == Some(self.states.len() + 1)
    }
}

#[test]
fn a_training_resumed_from_any_step_ends_with_the_same_bits_and_events() {
    for run in [small_cnn(8), with_everything(8)] {
        let data = quarters();
        let trainer = QatTrainer::new(&run, &data).unwrap();
        let mut whole = Keeper::default();
        let outcome = trainer.train(&mut whole).unwrap();
        let states = &whole.states;
        // The first and last steps of epochs and phases, and some between.
        let per_epoch = states.iter().filter(|(s, _)| s.phase() == Phase::Float && s.epoch() == 1).count();
        let float = states.iter().filter(|(s, _)| s.phase() == Phase::Float).count();
        let last = states.len() - 1;
        let places =
            [0, per_epoch - 1, per_epoch, 2 * per_epoch + 3, float - 1, float, float + per_epoch, last];
        for place in places {
            let (state, events) = &states[place];
            // Through the file.
            let state = TrainingCheckpoint::from_bytes(&state.to_bytes().unwrap()).unwrap();
            let mut rest = Keeper { before: *events, ..Keeper::default() };
            let resumed = trainer.resume(&state, &mut rest).unwrap();
            assert_eq!(resumed, outcome, "step {place}");
            assert_eq!(rest.resumed, 1);
            assert_eq!(rest.events, whole.events[*events..], "step {place}");
            assert_eq!(rest.states.last().map(|s| &s.0), states[place + 1..].last().map(|s| &s.0));
        }
    }
}

#[test]
fn a_stop_on_request_keeps_the_state_and_says_where() {
    let (run, data) = (small_cnn(8), quarters());
    let trainer = QatTrainer::new(&run, &data).unwrap();
    let mut listener = Keeper { stop_after: Some(75), ..Keeper::default() };
    let e = trainer.train(&mut listener).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Stopped);
    assert!(e.to_string().contains("quantised phase, epoch 1, step 3"), "{e}");
    assert_eq!(listener.states.len(), 75);
    let resumed = trainer.resume(&listener.states[74].0, &mut |_: &QatEvent| ()).unwrap();
    assert_eq!(resumed, trainer.train(&mut |_: &QatEvent| ()).unwrap());
}

#[test]
fn a_state_beyond_its_epoch_is_refused() {
    let (run, data) = (small_cnn(8), quarters());
    let trainer = QatTrainer::new(&run, &data).unwrap();
    let mut listener = Keeper { stop_after: Some(2), ..Keeper::default() };
    let _ = trainer.train(&mut listener).unwrap_err();
    let state = Checkpoint::from_bytes(&listener.states[1].0.to_bytes().unwrap()).unwrap();
    let with = |step: &str| {
        let mut state = state.clone();
        let text = state.metadata.get_mut("training").unwrap();
        assert!(text.contains(r#""step":2"#), "{text}");
        *text = text.replace(r#""step":2"#, &format!(r#""step":{step}"#));
        let state = TrainingCheckpoint::from_bytes(&state.to_bytes().unwrap()).unwrap();
        trainer.resume(&state, &mut |_: &QatEvent| ())
    };
    assert!(with("2").is_ok());
    for step in ["1000000", "18446744073709551615"] {
        let e = with(step).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Checkpoint);
        assert!(e.to_string().contains(&format!("step {step} of epochs of")), "{e}");
    }
}

#[test]
fn a_listener_that_fails_ends_the_training_with_its_error() {
    struct Full;
    impl Listener for Full {
        fn event(&mut self, _: &QatEvent) {}
        fn wants_checkpoint(&mut self) -> bool {
            true
        }
        fn checkpoint(&mut self, _: &TrainingCheckpoint) -> Result<()> {
            Err(Error::new(ErrorKind::Io, "no space"))
        }
    }
    let (run, data) = (small_cnn(1), quarters());
    let e = QatTrainer::new(&run, &data).unwrap().train(&mut Full).unwrap_err();
    assert_eq!((e.kind(), e.to_string().as_str()), (ErrorKind::Io, "no space"));
}

#[test]
fn the_state_of_another_training_is_refused() {
    let (run, data) = (small_cnn(8), quarters());
    let mut listener = Keeper { stop_after: Some(2), ..Keeper::default() };
    QatTrainer::new(&run, &data).unwrap().train(&mut listener).unwrap_err();
    let state = &listener.states[0].0;
    let refused = |run: &Run, data: &Dataset| {
        let e = QatTrainer::new(run, data).unwrap().resume(state, &mut |_: &QatEvent| ()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Checkpoint, "{e}");
    };
    refused(&small_cnn(9), &data);
    let mut other = quarters();
    other.train.features[7] += 0.25;
    refused(&run, &other);
    let warmer = Run::parse(&run.text.replace("lr = 0.02", "lr = 0.03"), "run.toml".as_ref()).unwrap();
    refused(&warmer, &data);
}

#[test]
fn accumulated_batches_are_one_large_one() {
    // Without batch normalisation, whose statistics are those of a batch, and without distortions.
    let text = |more: &str| {
        let text = small_cnn(3).text.replace("bn = true, ", "").replace(", bn = true", "");
        text.replace("augment = { shift = 0.5, rotate = 5, scale = 0.05 }", "").replace("batch = 16", more)
    };
    let data = quarters();
    let train = |more: &str| {
        let run = Run::parse(&text(more), "run.toml".as_ref()).unwrap();
        let mut losses = Vec::new();
        QatTrainer::new(&run, &data)
            .unwrap()
            .train_float(&mut |e: &QatEvent| {
                if let QatEvent::StepDone { loss, .. } = e {
                    losses.push(*loss);
                }
            })
            .unwrap();
        losses
    };
    let (together, apart) = (train("batch = 40"), train("batch = 10\naccumulate = 4"));
    assert_eq!((together.len(), apart.len()), (30, 30));
    for (a, b) in together.iter().zip(&apart) {
        assert!((a - b).abs() < 1e-3 * a.max(0.1), "{a} {b}");
    }
}

#[test]
fn the_best_state_on_examples_held_back_is_kept_and_patience_ends_a_phase() {
    let text = small_cnn(3)
        .text
        .replace("batch = 16", "batch = 16\nvalidation = 0.2\nkeep = \"best\"\npatience = 2");
    // Far too fast: it gets worse again.
    let run = Run::parse(
        &text.replace("epochs = 6", "epochs = 40").replace("lr = 0.02", "lr = 0.2"),
        "run.toml".as_ref(),
    )
    .unwrap();
    let data = quarters();
    let trainer = QatTrainer::new(&run, &data).unwrap();
    let mut epochs = Vec::new();
    let trained = trainer
        .train_float(&mut |e: &QatEvent| {
            if let QatEvent::EpochDone { validation_loss: Some(loss), test_accuracy, .. } = e {
                epochs.push((*loss, *test_accuracy));
            }
        })
        .unwrap();
    let best = (0..epochs.len()).min_by(|&a, &b| epochs[a].0.total_cmp(&epochs[b].0)).unwrap();
    assert_eq!(epochs.len(), best + 3, "{epochs:?}");
    assert!(epochs.len() < 40);
    assert_eq!(trained.test_accuracy, epochs[best].1);
    assert_eq!(trainer.evaluate_float(&trained.checkpoint).unwrap(), trained.test_accuracy);
}

#[test]
fn every_method_learns() {
    let data = quarters();
    let sections = [
        "ste = \"standard\"",
        "ste = { clipped = { clip_val = 1.0 } }",
        "ste = { ewgs = { lambda = 0.2 } }",
        "bits = 2\nstep = \"uniform\"\ninit = \"max\"",
        "bits = 2\ngrid = \"mid-tread\"\ninit = \"octav\"",
        "init = \"lsq\"",
        "activation_bits = 3",
        "activation_bits = 2\nactivations = \"calibrated\"",
        "bits = 2\nprogressive = [8, 4]",
        "importance = \"fisher\"",
    ];
    for section in sections {
        let text = small_cnn(3).text;
        let mut qat = text[text.find("[qat]").unwrap()..].to_owned();
        for line in section.lines() {
            let key = line.split_once('=').unwrap().0;
            qat = qat.lines().filter(|l| !l.starts_with(key)).fold(String::new(), |t, l| t + l + "\n");
        }
        let text = format!("{}{qat}{section}\n", &text[..text.find("[qat]").unwrap()]);
        let run = Run::parse(&text, "run.toml".as_ref()).unwrap_or_else(|e| panic!("{section}: {e}"));
        let outcome = QatTrainer::new(&run, &data).unwrap().train(&mut |_: &QatEvent| ()).unwrap();
        assert!(outcome.quantised.test_accuracy > 0.9, "{section}: {}", outcome.quantised.test_accuracy);
    }
    // All at once is harder than each alone: it gets more time.
    let text =
        with_everything(3).text.replace("epochs = 6", "epochs = 12").replace("epochs = 4", "epochs = 12");
    let run = Run::parse(&text, "run.toml".as_ref()).unwrap();
    let outcome = QatTrainer::new(&run, &data).unwrap().train(&mut |_: &QatEvent| ()).unwrap();
    assert!(outcome.quantised.test_accuracy > 0.85, "{}", outcome.quantised.test_accuracy);
}

fn with_teacher(section: &str) -> Run {
    let text = format!("{}\n[distill]\nteacher = \"self\"\n{section}\n", small_cnn(3).text);
    Run::parse(&text, "run.toml".as_ref()).unwrap()
}

#[test]
fn the_teachers_bytes_never_change_and_the_student_learns_from_it() {
    let data = quarters();
    // Nothing but the teacher to learn from: what the student knows comes from there.
    let run = with_teacher(
        "task_weight = 0.0\ndivergence = \"confidence-aware\"\nfeatures = [{ student = \"stem\", teacher = \"stem\" }, { student = \"pool\", teacher = \"add4\", loss = \"similarity\", weight = 0.5 }]",
    );
    let trainer = QatTrainer::new(&run, &data).unwrap();
    let listen = &mut |_: &QatEvent| ();
    let mut session = Session::new(listen, String::new(), 0);
    let float = trainer.float_phase(None, &mut session).unwrap();
    let mut net = trainer.quantise(&float.checkpoint, &mut session).unwrap();
    let mut objective = trainer.objective().unwrap();
    let spec = run.distill.as_ref().unwrap();
    objective.teacher = Some(Teacher::new(&run, &data, spec, &float.checkpoint).unwrap());
    let bytes = |o: &Objective| o.teacher.as_ref().unwrap().save().unwrap().to_bytes().unwrap();
    let before = bytes(&objective);
    assert_eq!(before, float.checkpoint.to_bytes().unwrap());
    let plan = Plan {
        phase: Phase::Quantised,
        epochs: 4,
        epochs_before: 6,
        peak_rate: 0.01,
        peak_scale_rate: 0.01,
        warm_up: 0.0,
        spec: &run.train,
    };
    // Sums of floats depend on the number of threads.
    let threads = Threads::worth(&run.model, data.shape, run.train.batch).unwrap();
    let student = fit(&mut net, &trainer.examples(true), &objective, &plan, None, &mut session).unwrap();
    drop(threads);
    assert_eq!(bytes(&objective), before);
    assert!(student.test_accuracy > 0.9, "{}", student.test_accuracy);
    // The whole way does the same.
    assert_eq!(trainer.train(&mut |_: &QatEvent| ()).unwrap().quantised, student);
}

#[test]
fn distillation_resumes_bit_for_bit() {
    let (run, data) = (with_teacher("temperature = 4.0"), quarters());
    let trainer = QatTrainer::new(&run, &data).unwrap();
    let mut listener = Keeper { stop_after: Some(90), ..Keeper::default() };
    trainer.train(&mut listener).unwrap_err();
    let resumed = trainer.resume(&listener.states[89].0, &mut |_: &QatEvent| ()).unwrap();
    assert_eq!(resumed, trainer.train(&mut |_: &QatEvent| ()).unwrap());
}

#[test]
fn a_teacher_that_lacks_a_layer_is_named() {
    let data = quarters();
    let run = with_teacher("features = [{ student = \"stem\", teacher = \"tail\" }]");
    let e = QatTrainer::new(&run, &data).unwrap().train(&mut |_: &QatEvent| ()).unwrap_err().to_string();
    assert!(e.contains("`features` of [distill]") && e.contains("`tail`") && e.contains("stem"), "{e}");
}

#[test]
fn bits_chosen_under_a_budget_are_trained_and_resumed() {
    let text = small_cnn(3).text.replace("[qat]\n", "[qat]\nmax_bytes = 1500\n");
    let run = Run::parse(&text, "run.toml".as_ref()).unwrap();
    let data = quarters();
    let trainer = QatTrainer::new(&run, &data).unwrap();
    let mut listener = Keeper { stop_after: Some(90), ..Keeper::default() };
    trainer.train(&mut listener).unwrap_err();
    let outcome = trainer.train(&mut |_: &QatEvent| ()).unwrap();
    let bits = outcome.bits.as_ref().unwrap();
    assert_eq!(bits.len(), 4);
    assert_eq!(trainer.resume(&listener.states[89].0, &mut |_: &QatEvent| ()).unwrap(), outcome);
    // What was trained has the size that was asked for.
    let chosen = run.with_bits(bits).unwrap();
    assert_eq!(chosen.qat.max_bytes, None);
    let mut checkpoint = outcome.quantised.checkpoint.clone();
    About::new(&chosen, &data, "qat".into()).store(&mut checkpoint).unwrap();
    let bytes = checkpoint.to_bytes().unwrap();
    let file = export_checkpoint(&chosen, &bytes, crate::export::Options::default()).unwrap();
    assert!(file.len() <= 1500, "{}", file.len());
    assert!(outcome.quantised.test_accuracy > 0.9, "{}", outcome.quantised.test_accuracy);
    let tight = Run::parse(&text.replace("= 1500", "= 150"), "run.toml".as_ref()).unwrap();
    let e = QatTrainer::new(&tight, &data).unwrap().train(&mut |_: &QatEvent| ()).unwrap_err().to_string();
    assert!(e.contains("`max_bytes` of [qat]") && e.contains("150 are allowed"), "{e}");
}
