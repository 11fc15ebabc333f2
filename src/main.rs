//! The binary; `doorward --help` says what it can do.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, of which a small service fills little: 21 MB at rest instead of 33, and what
    // a crowd took is given back when it leaves. The hashing threads ask for theirs themselves.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    doorward::cli::main()
}
