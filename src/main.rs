//! The binary; `doorward --help` says what it can do.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // A small service fills little of a huge page, and memory taken at a peak is given back more
    // easily in small ones. The other place that switches them is security/password/argon2.rs: on
    // while a hashing thread fills its memory, and off again after.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    doorward::cli::main()
}
