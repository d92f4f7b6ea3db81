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
