//! What benchmarks, studies and the tasks of `xtask` share: the files that measured figures go to.

pub mod results;
