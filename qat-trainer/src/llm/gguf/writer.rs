//! Writes GGUF files for tests.

/// The bytes of a file, grown entry by entry.
#[derive(Clone, Default)]
pub(crate) struct Writer {
    metadata: Vec<u8>,
    entries: u64,
    table: Vec<u8>,
    tensors: u64,
    data: Vec<u8>,
}

impl Writer {
    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &text(value))
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub(crate) fn truth(self, key: &str, value: bool) -> Self {
        self.raw(key, 7, &[u8::from(value)])
    }

    pub(crate) fn texts(self, key: &str, values: &[impl AsRef<str>]) -> Self {
        let count = (values.len() as u64).to_le_bytes();
        let values: Vec<u8> = values.iter().flat_map(|value| text(value.as_ref())).collect();
        self.raw(key, 9, &[&8u32.to_le_bytes()[..], &count, &values].concat())
    }

    pub(crate) fn i32s(self, key: &str, values: &[i32]) -> Self {
        let count = (values.len() as u64).to_le_bytes();
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.raw(key, 9, &[&5u32.to_le_bytes()[..], &count, &values].concat())
    }

    /// A key with a type's code and whatever bytes.
    pub(crate) fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.metadata.extend([text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat());
        self.entries += 1;
        self
    }

    /// A tensor of f32; `shape` has the fastest dimension last.
    pub(crate) fn tensor(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.raw_tensor(name, shape, 0, &bytes)
    }

    /// A tensor with a format's code and its bytes.
    pub(crate) fn raw_tensor(mut self, name: &str, shape: &[usize], format: u32, bytes: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let offset = self.data.len() as u64;
        self.data.extend(bytes);
        self.entry(name, shape, format, offset)
    }

    /// A tensor that lies anywhere.
    pub(crate) fn entry(mut self, name: &str, shape: &[usize], format: u32, offset: u64) -> Self {
        self.table.extend([text(name), (shape.len() as u32).to_le_bytes().to_vec()].concat());
        self.table.extend(shape.iter().rev().flat_map(|&d| (d as u64).to_le_bytes()));
        self.table.extend(format.to_le_bytes());
        self.table.extend(offset.to_le_bytes());
        self.tensors += 1;
        self
    }

    /// The file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
        file.extend(self.tensors.to_le_bytes());
        file.extend(self.entries.to_le_bytes());
        file.extend(&self.metadata);
        file.extend(&self.table);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}
