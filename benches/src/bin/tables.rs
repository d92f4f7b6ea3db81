//! Puts the recorded figures into the tables of the READMEs, into `benches/RESULTS.md` and into the pictures beside it.
//!
//!     cargo run -p qat-benches --bin tables

fn main() -> anyhow::Result<()> {
    qat_benches::tables::renew()
}
