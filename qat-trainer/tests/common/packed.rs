//! Packed decoders that were changed.

/// The file with its checksum made anew.
pub(crate) fn sealed(mut file: Vec<u8>) -> Vec<u8> {
    let (body, checksum) = file.split_last_chunk_mut().unwrap();
    let mut crc = flate2::Crc::new();
    crc.update(body);
    *checksum = crc.sum().to_le_bytes();
    file
}

/// The file with other words in its index, of any length, and header and places as they then have to be.
pub(crate) fn reworded(good: &[u8], from: &str, to: &str) -> Vec<u8> {
    let length = |file: &[u8]| u32::from_le_bytes(file[12..16].try_into().unwrap()) as usize;
    let index = std::str::from_utf8(&good[64..64 + length(good)]).unwrap();
    assert!(index.contains(from), "{from}");
    let index = index.replacen(from, to, 1);
    let parts = &good[(64 + length(good)).next_multiple_of(64)..];
    let mut file = good[..64].to_vec();
    file[12..16].copy_from_slice(&(index.len() as u32).to_le_bytes());
    file.extend_from_slice(index.as_bytes());
    file.resize(file.len().next_multiple_of(64), 0);
    file.extend_from_slice(parts);
    let len = file.len() as u64;
    file[16..24].copy_from_slice(&len.to_le_bytes());
    sealed(file)
}
