//! How the C library's allocator keeps the memory of a process.

#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "the call has no safe binding")
)]

/// The most arenas. By default glibc makes up to eight for each core, and memory that is freed in one
/// arena is not used by threads of another. Batches are allocated and freed by different threads: with
/// two arenas ingest needs a fifth less memory and is no slower.
#[cfg(target_env = "gnu")]
const MAX_ARENAS: libc::c_int = 2;

/// Sets the allocator up, before there is a second thread. `MALLOC_ARENA_MAX` in the environment wins.
pub fn set_up() {
    #[cfg(target_env = "gnu")]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        // SAFETY: it takes two numbers. It fails only where the parameter is not known, and changes
        // nothing then.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, MAX_ARENAS) };
    }
}
