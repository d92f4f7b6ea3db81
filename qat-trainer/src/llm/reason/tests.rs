//! The losses against their equations, on small decoders with generated weights.

use super::*;
use crate::llm::config::{Architecture, tiny};
use crate::random::normal;
use crate::spec::Divergence;
use qat_kernels::QatLossWeights;

const T: f64 = 2.0;
const TIME: usize = 6;

fn spans() -> Vec<Span> {
    use Span::{Answer, Question, Step};
    let first = [Question, Step(0), Step(0), Step(1), Answer, Answer];
    [first, [Question, Question, Step(0), Answer, Question, Question]].concat()
}

fn tensors() -> (Tensor, Tensor) {
    let tokens = (normal(5, &[2, TIME as i64]) * 1000.0).to_kind(Kind::Int64).remainder(262);
    let targets: Vec<i64> =
        (0..).zip(spans()).map(|(i, s)| if s == Span::Question { IGNORED } else { 7 * i }).collect();
    (tokens, Tensor::from_slice(&targets))
}

fn decoder(seed: u64) -> Decoder {
    Decoder::generated(&tiny(Architecture::Qwen2), seed).unwrap()
}

fn teacher(weights: [f32; 3], inner: [f64; 3], divergence: Divergence) -> DecoderTeacher {
    let [task, distillation, reasoning] = weights;
    let loss = DistillationLoss::new(QatLossWeights { task, distillation, reasoning }, T as f32, divergence)
        .unwrap();
    let [steps, trajectory, answer] = inner;
    DecoderTeacher::new(decoder(2), &decoder(1), loss, ChainOfThoughtLoss { steps, trajectory, answer })
        .unwrap()
}

fn value(teacher: &DecoderTeacher, student: &Decoder, chunk: usize) -> f64 {
    let (tokens, targets) = tensors();
    let lesson = Lesson { tokens: &tokens, targets: &targets, spans: &spans(), chunk };
    teacher.loss(student, &lesson).unwrap().double_value(&[])
}

/// T²·D at every position, from all logits at once, in f64.
fn divergences(divergence: Divergence) -> Vec<f64> {
    let (tokens, targets) = tensors();
    let logits =
        |seed| decoder(seed).forward(&tokens).unwrap().reshape([2 * TIME as i64, -1]).to_kind(Kind::Double);
    let (ours, theirs) = (logits(1), logits(2));
    let soft = |l: &Tensor| (l / T).log_softmax(-1, Kind::Double);
    let kl =
        |p: &Tensor, q: &Tensor| (p.exp() * (p - q)).sum_dim_intlist([-1i64].as_slice(), false, Kind::Double);
    let (s, t) = (soft(&ours), soft(&theirs));
    let forward = kl(&t, &s);
    let apart = match divergence {
        Divergence::Kl => forward,
        Divergence::ConfidenceAware => {
            let p = theirs
                .softmax(-1, Kind::Double)
                .gather(1, &targets.clamp_min(0).unsqueeze(1), false)
                .squeeze_dim(1);
            let mask = targets.ne(IGNORED).to_kind(Kind::Double);
            let sure = (p * &mask).sum(Kind::Double) / mask.sum(Kind::Double);
            kl(&s, &t) * &sure + forward * (1.0 - &sure)
        }
    };
    Vec::<f64>::try_from(apart * (T * T)).unwrap()
}

#[test]
fn every_step_counts_alike_and_every_answer() {
    let loss = ChainOfThoughtLoss { steps: 6.0, trajectory: 0.0, answer: 4.0 };
    // Three steps of 2, 1 and 1 tokens; two answers of 2 and 1.
    let wanted = [0.0, 1.0, 1.0, 2.0, 1.0, 1.0, 0.0, 0.0, 2.0, 2.0, 0.0, 0.0];
    assert_eq!(loss.weights(&spans(), TIME), wanted);
    // The same step number in the next row is another step, also side by side.
    assert_eq!(loss.weights(&[Span::Step(0), Span::Step(0)], 1), [3.0, 3.0]);
    assert_eq!(loss.weights(&[Span::Plain; 2], 2), [0.0; 2]);
}

#[test]
fn values_are_those_of_the_equations_in_chunks_of_any_size() {
    let student = decoder(1);
    for divergence in [Divergence::Kl, Divergence::ConfidenceAware] {
        let d = divergences(divergence);
        let mean = |at: &[usize]| at.iter().map(|&i| d[i]).sum::<f64>() / at.len() as f64;
        let (tokens, targets) = tensors();
        let logits = student.forward(&tokens).unwrap().reshape([2 * TIME as i64, -1]);
        let ce = logits
            .cross_entropy_loss(&targets, None::<Tensor>, Reduction::Mean, IGNORED, 0.0)
            .double_value(&[]);
        let predicted: Vec<usize> = (0..12).filter(|&i| spans()[i] != Span::Question).collect();
        let steps = (mean(&[1, 2]) + d[3] + d[8]) / 3.0;
        let answers = (mean(&[4, 5]) + d[9]) / 2.0;
        for (weights, inner, wanted) in [
            ([1.0, 0.0, 0.0], [0.0; 3], ce),
            ([0.0, 1.0, 0.0], [0.0; 3], mean(&predicted)),
            ([0.0, 0.0, 2.0], [1.0, 0.0, 0.0], 2.0 * steps),
            ([0.0, 0.0, 1.0], [0.0, 0.0, 1.0], answers),
            (
                [0.5, 2.0, 1.0],
                [3.0, 0.0, 0.5],
                0.5 * ce + 2.0 * mean(&predicted) + 3.0 * steps + 0.5 * answers,
            ),
        ] {
            for chunk in [1, 5, 64] {
                let got = value(&teacher(weights, inner, divergence), &student, chunk);
                assert!(
                    (got - wanted).abs() < 1e-4 * wanted,
                    "{divergence:?} {weights:?} {chunk}: {got} {wanted}"
                );
            }
        }
    }
}

#[test]
fn trajectories_are_compared_behind_every_block_on_the_tokens_of_steps() {
    let (tokens, _) = tensors();
    let states = |seed| {
        let mut all = Vec::new();
        let _last = decoder(seed)
            .hidden_seen(&tokens, &mut |_, h| all.push(h.flatten(0, 1).to_kind(Kind::Double)))
            .unwrap();
        all
    };
    let (ours, theirs) = (states(1), states(2));
    let mut wanted = 0.0;
    for (a, b) in ours.iter().zip(&theirs) {
        for i in [1, 2, 3, 8] {
            let (a, b) = (a.get(i), b.get(i));
            let cosine = a.dot(&b) / (a.norm() * b.norm());
            wanted += (1.0 - cosine.double_value(&[])) / 8.0;
        }
    }
    let got = value(&teacher([0.0, 0.0, 1.0], [0.0, 1.0, 0.0], Divergence::Kl), &decoder(1), 64);
    assert!((got - wanted).abs() < 1e-4, "{got} {wanted}");
    // A student that is the teacher has nothing to learn.
    let same = value(&teacher([0.0, 1.0, 1.0], [1.0; 3], Divergence::Kl), &decoder(2), 64);
    assert!(same.abs() < 1e-5, "{same}");
}

#[test]
fn teachers_that_do_not_fit_are_refused() {
    let loss = DistillationLoss::new(QatLossWeights::default(), 1.0, Divergence::Kl).unwrap();
    let make = |change: fn(&mut crate::llm::config::LlmConfig), trajectory: f64| {
        let mut config = tiny(Architecture::Qwen2);
        change(&mut config);
        let reasoning = ChainOfThoughtLoss { steps: 1.0, trajectory, answer: 1.0 };
        DecoderTeacher::new(Decoder::generated(&config, 1).unwrap(), &decoder(1), loss, reasoning)
    };
    let error = |made: Result<DecoderTeacher>| made.unwrap_err().to_string();
    assert!(error(make(|c| c.vocabulary = 300, 0.0)).contains("300 tokens, the student 270"));
    assert!(error(make(|c| c.layers = 3, 1.0)).contains("3 blocks"));
    assert!(make(|c| c.layers = 3, 0.0).is_ok());
    assert!(error(make(|_| (), -1.0)).contains("0 or more"));
    let mut learner = decoder(2);
    learner.learn().unwrap();
    let none = ChainOfThoughtLoss { steps: 0.0, trajectory: 0.0, answer: 0.0 };
    assert!(error(DecoderTeacher::new(learner, &decoder(1), loss, none)).contains("frozen"));
}
