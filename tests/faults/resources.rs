//! What the instances hold: memory and descriptors.

use std::fs;

use crate::harness::process::Process;

/// Connections to the database that are made when they are first needed, letters on their way, and
/// what a run-time opens once.
const SPARE_DESCRIPTORS: usize = 16;
/// The memory of a hash on each thread, kept for the next one, and what an allocator does not give
/// back.
const SPARE_MEBIBYTES: usize = 64;

/// Of one instance.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    pub mebibytes: usize,
    pub descriptors: usize,
}

impl Resources {
    /// `None` where the system does not tell.
    pub fn of(service: &Process) -> Option<Self> {
        let id = service.id();
        let descriptors = fs::read_dir(format!("/proc/{id}/fd")).ok()?.count();
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: usize = line.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
        Some(Self { mebibytes: kibibytes / 1024, descriptors })
    }

    pub fn has_returned_to(self, before: Self) -> bool {
        self.mebibytes <= before.mebibytes + SPARE_MEBIBYTES
            && self.descriptors <= before.descriptors + SPARE_DESCRIPTORS
    }
}
