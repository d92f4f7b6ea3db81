//! Generated problems of arithmetic with every step written out: text to learn reasoning from, with answers that can be checked.
//!
//! A problem is a chain of operations on numbers from 0 to 99, worked from left to right; it begins with a number or with a
//! product of two digits, and adds or subtracts from there, never leaving 0 to 99, such as
//! `9*5+3-10=`, `9*5=45;`, `45+3=48;`, `48-10=38;`, `#38`.
//!
//! ```
//! use qat_trainer::llm::arithmetic::{Half, Problems};
//! let problem = Problems::new(1, 3, Half::Learned).next().unwrap();
//! assert!(problem.question.ends_with('=') && problem.steps.len() == 3);
//! let result = problem.answer.strip_prefix('#').unwrap();
//! assert!(problem.steps[2].ends_with(&format!("={result};")));
//! ```
//!
//! Whether a problem is one to learn from or one to judge by depends on its question alone, so that no question is in both
//! halves, whatever the seeds and numbers.

use crate::random::{Purpose, Random};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A problem with its reasoning. The parts follow each other in the text as they stand here, delimiters included.
///
/// ```
/// use qat_trainer::llm::arithmetic::Worked;
/// // A line of a file of problems.
/// let line = r##"{"question": "7*6-2=", "steps": ["7*6=42;", "42-2=40;"], "answer": "#40"}"##;
/// let worked: Worked = serde_json::from_str(line)?;
/// let text = [worked.question, worked.steps.concat(), worked.answer].concat();
/// assert_eq!(text, "7*6-2=7*6=42;42-2=40;#40");
/// assert!(serde_json::from_str::<Worked>(r#"{"question": "1+1=", "steps": [], "result": "2"}"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Worked {
    /// What is given.
    pub question: String,
    /// What is thought.
    pub steps: Vec<String>,
    /// What is answered.
    pub answer: String,
}

/// The largest number.
const LARGEST: usize = 99;
/// One of so many questions is held out.
const HELD_OUT_OF: u8 = 16;

/// The halves of all problems.
///
/// ```
/// use qat_trainer::llm::arithmetic::{Half, Problems};
/// use std::collections::HashSet;
/// let ask = |seed, half| Problems::new(seed, 1, half).take(200).map(|p| p.question).collect::<HashSet<_>>();
/// // Seeds and halves are independent: no training meets a question that it is judged by.
/// assert!((1..=5).all(|seed| ask(seed, Half::Learned).is_disjoint(&ask(9, Half::HeldOut))));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// To learn from: 15 of 16.
    Learned,
    /// To judge by: 1 of 16.
    HeldOut,
}

/// An endless row of problems.
///
/// ```
/// use qat_trainer::llm::arithmetic::{Half, Problems};
/// let mut row = Problems::new(1, 3, Half::Learned);
/// let problem = row.next().unwrap_or_default();
/// assert_eq!(problem.question, "81+13-23+7=");
/// assert_eq!(problem.steps, ["81+13=94;", "94-23=71;", "71+7=78;"]);
/// let from_here = row; // a copy stands where the row stood
/// row.next();
/// assert_ne!(row.next(), from_here.take(1).next());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Problems {
    seed: u64,
    operations: usize,
    half: Half,
    drawn: usize,
}

impl Problems {
    /// The problems of a seed with so many operations, at least 1.
    ///
    /// ```
    /// use qat_trainer::llm::arithmetic::{Half, Problems};
    /// let five = Problems::new(5, 4, Half::HeldOut);
    /// assert!(five.take(20).all(|problem| problem.steps.len() == 4));
    /// assert!(five.take(9).eq(Problems::new(5, 4, Half::HeldOut).take(9)));
    /// assert!(five.take(9).ne(Problems::new(6, 4, Half::HeldOut).take(9)));
    /// ```
    #[must_use]
    pub const fn new(seed: u64, operations: usize, half: Half) -> Self {
        Self { seed, operations, half, drawn: 0 }
    }
}

impl Iterator for Problems {
    type Item = Worked;

    fn next(&mut self) -> Option<Worked> {
        loop {
            let problem = draw(&mut Random::new(self.seed, Purpose::Generated(self.drawn)), self.operations);
            self.drawn += 1;
            if half(&problem.question) == self.half {
                return Some(problem);
            }
        }
    }
}

fn half(question: &str) -> Half {
    match Sha256::digest(question).first() {
        Some(byte) if byte % HELD_OUT_OF == 0 => Half::HeldOut,
        _ => Half::Learned,
    }
}

fn draw(random: &mut Random, operations: usize) -> Worked {
    let (mut question, mut steps) = (String::new(), Vec::new());
    let mut total = if random.below(2) == 0 {
        let [a, b] = [0; 2].map(|_| 2 + random.below(8));
        question += &format!("{a}*{b}");
        steps.push(format!("{a}*{b}={};", a * b));
        a * b
    } else {
        let first = random.below(LARGEST + 1);
        question += &first.to_string();
        first
    };
    while steps.len() < operations {
        // Both ways are open but at the ends: 0 has nothing to give, 99 takes nothing.
        let subtract = total > 0 && (total == LARGEST || random.below(2) == 0);
        let (sign, next) = if subtract {
            ('-', random.below(total))
        } else {
            ('+', total + 1 + random.below(LARGEST - total))
        };
        let by = total.abs_diff(next);
        question += &format!("{sign}{by}");
        steps.push(format!("{total}{sign}{by}={next};"));
        total = next;
    }
    question.push('=');
    Worked { question, steps, answer: format!("#{total}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Works a question out by itself.
    fn value(question: &str) -> i64 {
        let mut total = 0;
        let mut sign = 1;
        let mut term = String::new();
        for c in question.chars() {
            if c.is_ascii_digit() || c == '*' {
                term.push(c);
                continue;
            }
            total += sign * term.split('*').map(|n| n.parse::<i64>().unwrap()).product::<i64>();
            term.clear();
            sign = if c == '-' { -1 } else { 1 };
        }
        total
    }

    #[test]
    fn every_step_follows_from_the_one_before_and_the_answer_is_right() {
        let mut signs = HashSet::new();
        for problem in Problems::new(3, 4, Half::Learned).take(500) {
            assert_eq!(problem.steps.len(), 4);
            let mut carried = None;
            for step in &problem.steps {
                let (sum, result) = step.trim_end_matches(';').split_once('=').unwrap();
                let result: i64 = result.parse().unwrap();
                assert_eq!(value(&format!("{sum}=")), result, "{problem:?}");
                assert!((0..=99).contains(&result));
                assert!(carried.is_none_or(|c: i64| step.starts_with(&c.to_string())), "{problem:?}");
                carried = Some(result);
            }
            assert_eq!(problem.answer, format!("#{}", value(&problem.question)));
            signs.extend(problem.question.chars().filter(|c| !c.is_ascii_digit()));
        }
        assert_eq!(signs, HashSet::from(['*', '+', '-', '=']));
    }

    #[test]
    fn the_halves_share_no_question() {
        let questions =
            |seed, half| Problems::new(seed, 1, half).take(3000).map(|p| p.question).collect::<HashSet<_>>();
        let (learned, held_out) = (questions(1, Half::Learned), questions(2, Half::HeldOut));
        assert!(learned.is_disjoint(&held_out));
        // Single operations are few enough to see them nearly all: the halves are 15 to 1.
        let share = held_out.len() as f64 / (held_out.len() + learned.len()) as f64;
        assert!(held_out.len() > 100 && share < 0.3, "{share}");
        assert_eq!(learned, questions(1, Half::Learned));
    }
}
