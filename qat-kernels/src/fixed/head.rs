//! On-device adaptation: the last linear layer of a deployed classifier, trained in integers on the caller's slices.

use super::q::{Fixed, Q32};
use super::quantize::{FixedQuantizer, same_length};
use super::sgd::Sgd;
use super::softmax::cross_entropy_gradient;
use super::ste::FixedSte;
use super::word::{Wide, Word, scale};
use crate::error::{Error, Result, What};
use crate::grid::Levels;
use crate::infer::argmax_by;
use crate::ste::LsqMask;
