//! The `.piq` file: an integer model, checked once and then run in place.
//!
//! ```text
//! header 16 B | section table, 12 B each | program | parameters | metadata | known answers | signature | CRC-32
//! ```
//!
//! Everything is little-endian; every section starts on a multiple of 16 bytes and gaps are zero, so a file has exactly
//! one spelling. What the engine executes (program and parameters) is fixed-width records that a core reads in place;
//! what only people and tools read (metadata) is postcard. `docs/format.md` writes all of it down, byte by byte.

#[doc = include_str!("../docs/format.md")]
pub mod format {}

mod builder;
mod layout;
mod metadata;
mod plan;
mod record;
mod sections;
pub mod signature;
mod target;

pub(crate) use layout::Layout;
pub(crate) use layout::{cortex_m4, cortex_m55, planes};
pub use metadata::{InputTransform, Metadata};
#[cfg(feature = "alloc")]
pub(crate) use plan::Buffers;
pub(crate) use record::{
    ChannelParams, HEADER_LEN, IN_OUTPUT, ModelHeader, OpKind, OpRecord, RECORD_LEN, RotationRecord,
    TensorInfo, WeightSpec,
};
pub(crate) use sections::Sections;
pub use sections::file_in;
pub use target::Target;

#[cfg(feature = "alloc")]
pub use builder::{ModelBuilder, Output, Steps, TensorId, TensorSpec, Weights, Window};

/// First four bytes of every `.piq` file. The first one is no text character, so that a transfer in text mode is seen.
pub const MAGIC: [u8; 4] = [0x89, b'P', b'I', b'Q'];

/// The format version that this crate writes and reads.
pub const VERSION: u16 = 1;

/// Alignment of sections within the file. Place the file itself on such a boundary in flash.
pub const ALIGNMENT: usize = 16;
