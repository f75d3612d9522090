//! Giving freed memory back to the system.
//!
//! musl's allocator, which the Pi's binary is built with, does so by itself. glibc's keeps what lies below the highest
//! piece in use: after 2,000 clients left, 65 MB of 7 stayed resident, and the server would have thought itself short
//! of memory for ever.

/// Has buffers of this size and more lie in pages of their own, which go back when they are freed. Judgement: what
/// waits for a peer that does not read; with 2,000 clients and 32 MiB the peak fell from 35 MiB to 30.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_PAGES_BYTES: i32 = 32 * 1024;

/// Has the allocator hold large buffers apart from small ones; nothing to do for other allocators. For a server's start.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn hold_large_apart() {
    const M_MMAP_THRESHOLD: i32 = -3;
    unsafe extern "C" {
        /// `mallopt(3)`: takes two numbers and refuses what it does not know.
        safe fn mallopt(param: i32, value: i32) -> i32;
    }
    if mallopt(M_MMAP_THRESHOLD, OWN_PAGES_BYTES) == 0 {
        log::debug!("the allocator keeps its own threshold for large buffers");
    }
}

/// Has the allocator hold large buffers apart from small ones: this one does so by itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn hold_large_apart() {}

/// Has the allocator give back what it keeps for later; nothing to do for other allocators. Walks the whole heap:
/// about 0.1 ms per MiB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn give_back() {
    unsafe extern "C" {
        /// `malloc_trim(3)`: touches no memory in use and may be called at any time by any thread.
        safe fn malloc_trim(pad: usize) -> i32;
    }
    if malloc_trim(0) == 0 {
        log::trace!("the allocator had nothing to give back");
    }
}

/// Has the allocator give back what it keeps for later: this one does so by itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
