//! What benchmarks, studies and the tasks of `xtask` share: operations to be timed, with inputs and the answers that they
//! must give; timing that a busy machine disturbs little; and the files that measured figures go to.

pub mod cases;
pub mod numbers;
pub mod results;
pub mod rounds;
pub mod tables;
