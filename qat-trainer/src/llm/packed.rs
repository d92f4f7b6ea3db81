//! Quantised decoders in one file, and the engine that runs them as they lie there: no libtorch, no dequantised matrices.
//!
//! | module | is |
//! |---|---|
//! | `file` | the container: header, index, parts, checksum |
//! | `index` | what the index says, checked against the configuration |
//! | `writer` | the file of a decoder |
//! | `export` | from a model and its codes |
//! | `network` | the decoder: what the file's matrices make of tokens |
//! | `attention` | keys and values of a text, and what attention makes of them |
//! | `numbers` | sums, norms and the like in f32, in a fixed order |
//!
//! `docs/language-models.md` describes the format and the arithmetic, which is the same on every machine and for any number of
//! threads.

mod attention;
#[cfg(feature = "tch")]
mod export;
mod file;
mod index;
mod network;
mod numbers;
mod writer;

pub use file::is_packed;
pub use index::{Chat, Contents, KnownAnswer};
pub use network::PackedDecoder;
pub use writer::{Parts, pack};
