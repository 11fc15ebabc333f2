//! The binary; `doorward --help` says what it can do.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // A small service fills little of a huge page, and memory taken at a peak is given back more easily in small ones.
    // A hashing thread turns them on while it fills its memory.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    doorward::cli::main()
}
