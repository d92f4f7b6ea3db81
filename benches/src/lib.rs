//! What benchmarks, studies and the tasks of `xtask` share: operations to be timed, with inputs and the answers that they
//! must give; timing that a busy machine disturbs little; the files that measured figures go to; the tables and
//! pictures that are made of these, and the goals that they are held against.

pub mod anchors;
pub mod cases;
pub mod curves;
pub mod numbers;
pub mod results;
pub mod rounds;
pub mod tables;

/// The project's front page: its Rust compiles. Here and not in the kernels, whose package has no such page.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct FrontPage;
