//! Libraries that are looked for when a program runs.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};

/// A library, loaded for ever.
pub(super) struct Library(*mut c_void);

impl Library {
    /// The first of these that is there; why the last one is not.
    pub(super) fn open(names: &[&CStr], flags: c_int) -> Result<Self, String> {
        let mut problem = String::new();
        for name in names {
            // SAFETY: the name is NUL-terminated. The libraries of this crate's callers have initialisers that only
            // register themselves, and they stay loaded for ever.
            let handle = unsafe { libc::dlopen(name.as_ptr(), flags) };
            if !handle.is_null() {
                return Ok(Self(handle));
            }
            problem = loader_error();
        }
        Err(problem)
    }

    /// The function of this name.
    ///
    /// # Safety
    /// `F` must be the type of a pointer to this function.
    pub(super) unsafe fn function<F: Copy>(&self, name: &CStr) -> Result<F, String> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: the handle is that of a loaded library, the name is NUL-terminated.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if found.is_null() {
            return Err(loader_error());
        }
        // SAFETY: the caller vouches for the type, which has the size of a pointer.
        Ok(unsafe { std::mem::transmute_copy(&found) })
    }
}

/// Why the last call of the loader failed.
fn loader_error() -> String {
    // SAFETY: the function takes nothing and returns null or a NUL-terminated string of this thread.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".into();
    }
    // SAFETY: as above; it is copied before the next call of the loader.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_and_missing_ones_named() {
        let none = Library::open(&[c"libnone-of-this-name.so.1"], libc::RTLD_NOW);
        assert!(none.err().unwrap().contains("libnone-of-this-name.so.1"));
        let c = Library::open(&[c"libnone-of-this-name.so.1", c"libc.so.6"], libc::RTLD_NOW).unwrap();
        // SAFETY: the type of `abs`.
        let abs = unsafe { c.function::<extern "C" fn(c_int) -> c_int>(c"abs") }.unwrap();
        assert_eq!(abs(-7), 7);
        // SAFETY: nothing is found.
        let missing = unsafe { c.function::<extern "C" fn()>(c"none_of_this_name") };
        assert!(missing.err().unwrap().contains("none_of_this_name"));
    }
}
