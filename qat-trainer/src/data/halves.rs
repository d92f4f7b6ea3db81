//! One set of examples into two halves: by share, by group.

use super::raw::{Raw, RawLabels};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::{SplitRule, TestHalf};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// The examples of the training and of the test half, each in the order of the files.
///
/// Without groups, every class gives its share of examples to the test half; with groups, whole groups go there. Which
/// ones depends on the seed and on their names or numbers alone: it is the order of SHA-256(seed, what), so that it is
/// the same on every machine and with every version.
pub(super) fn halves(raw: &Raw, rule: &SplitRule) -> Result<[Vec<usize>; 2]> {
    let count = raw.labels.len();
    let mut test = vec![false; count];
    let refuse = |problem: String, remedy: &str| {
        Err(Error::new(ErrorKind::Data, problem).file(&raw.file).place("`split`").remedy(remedy))
    };
    match (&raw.groups, &rule.test) {
        (Some(groups), TestHalf::Named(names)) => {
            let known: BTreeSet<&str> = groups.iter().map(String::as_str).collect();
            if let Some(missing) = names.iter().find(|name| !known.contains(name.as_str())) {
                let some: Vec<&str> = known.into_iter().take(12).collect();
                return refuse(
                    format!("no example belongs to the group `{missing}`"),
                    &format!("correct `test`; the groups are {}", some.join(", ")),
                );
            }
            for (chosen, group) in test.iter_mut().zip(groups) {
                *chosen = names.contains(group);
            }
        }
        (Some(groups), TestHalf::Share(share)) => {
            let mut names: Vec<&str> =
                groups.iter().map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect();
            names.sort_by_cached_key(|name| key(rule.seed, name.as_bytes()));
            names.truncate(part(names.len(), *share));
            for (chosen, group) in test.iter_mut().zip(groups) {
                *chosen = names.contains(&group.as_str());
            }
        }
        (None, TestHalf::Share(share)) => {
            for (_, mut members) in by_class(&raw.labels) {
                members.sort_by_cached_key(|&i| key(rule.seed, &(i as u64).to_le_bytes()));
                members.truncate(part(members.len(), *share));
                members.into_iter().for_each(|i| test[i] = true);
            }
        }
        (None, TestHalf::Named(_)) => {
            return refuse("groups are named, but there are none".into(), "say where with `group`");
        }
    }
    let of = |half: bool| -> Vec<usize> { (0..count).filter(|&i| test[i] == half).collect() };
    let [train, test] = [of(false), of(true)];
    if train.is_empty() || test.is_empty() {
        let (empty, remedy) = match train.is_empty() {
            true => ("training", "give less to the test half"),
            false => ("test", "give more to the test half"),
        };
        return refuse(format!("no example is left for the {empty} half"), remedy);
    }
    Ok([train, test])
}

fn key(seed: u64, what: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(seed.to_le_bytes()).chain_update(what).finalize().into()
}

/// So many of `count`, rounded to the nearest.
fn part(count: usize, share: f64) -> usize {
    (count as f64 * share).round() as usize
}

fn by_class(labels: &RawLabels) -> BTreeMap<String, Vec<usize>> {
    let mut classes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut put = |(i, label): (usize, String)| classes.entry(label).or_default().push(i);
    match labels {
        RawLabels::Texts(texts) => texts.iter().cloned().enumerate().for_each(&mut put),
        RawLabels::Numbers(numbers) => numbers.iter().map(u32::to_string).enumerate().for_each(&mut put),
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::raw::{Kind, Places};
    use crate::spec::Shape;

    fn raw(count: usize, groups: Option<fn(usize) -> String>) -> Raw {
        Raw {
            file: "a".into(),
            label_file: "a".into(),
            features: (0..count).map(|i| i as f32).collect(),
            labels: RawLabels::Numbers((0..count as u32).map(|i| i % 3).collect()),
            places: Places::Index,
            shape: Shape::flat(1),
            kind: Kind::Table,
            columns: None,
            groups: groups.map(|g| (0..count).map(g).collect()),
        }
    }

    fn rule(seed: u64, test: TestHalf) -> SplitRule {
        SplitRule { test, group: None, seed }
    }

    #[test]
    fn every_class_gives_its_share_and_the_seed_decides_which() {
        let raw = raw(300, None);
        let [train, test] = halves(&raw, &rule(1, TestHalf::Share(0.2))).unwrap();
        assert_eq!((train.len(), test.len()), (240, 60));
        for class in 0..3 {
            assert_eq!(test.iter().filter(|&&i| i % 3 == class).count(), 20);
        }
        let mut all = [train.as_slice(), test.as_slice()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..300).collect::<Vec<_>>());
        assert_eq!(halves(&raw, &rule(1, TestHalf::Share(0.2))).unwrap(), [train.clone(), test.clone()]);
        assert_ne!(halves(&raw, &rule(2, TestHalf::Share(0.2))).unwrap()[1], test);
        // The choice is part of what others compare with: it must not change. (Computed by another program.)
        assert_eq!(test[..6], [2, 4, 7, 9, 11, 12]);
    }

    #[test]
    fn groups_stay_together() {
        let raw = raw(120, Some(|i| format!("s{}", i % 10)));
        for test in [TestHalf::Share(0.3), TestHalf::Named(vec!["s1".into(), "s7".into(), "s4".into()])] {
            let [train, test] = halves(&raw, &rule(3, test)).unwrap();
            let groups = |half: &[usize]| half.iter().map(|i| i % 10).collect::<BTreeSet<_>>();
            assert_eq!((groups(&train).len(), groups(&test).len()), (7, 3));
            assert!(groups(&train).is_disjoint(&groups(&test)));
        }
        let e = halves(&raw, &rule(1, TestHalf::Named(vec!["s99".into()]))).unwrap_err().to_string();
        assert!(e.contains("`s99`") && e.contains("s0, s1"), "{e}");
    }

    #[test]
    fn empty_halves_are_refused() {
        for (share, what) in [(0.001, "test half"), (0.999, "training half")] {
            let e = halves(&raw(9, None), &rule(1, TestHalf::Share(share))).unwrap_err().to_string();
            assert!(e.contains(what), "{e}");
        }
    }
}
