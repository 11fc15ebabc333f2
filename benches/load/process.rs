//! What processes use, as Linux tells it under /proc.

use std::fs;

/// Linux counts processor time in hundredths of a second here, on every machine.
const TICK: f64 = 10_000.0;

/// The fields of /proc/PID/stat that follow the name: the state, the parent ...
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

pub fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// Microseconds of processor time of a process, and of its children that have ended.
pub fn cpu(pid: u32) -> f64 {
    let fields = stat(pid).unwrap_or_default();
    let ticks = fields.iter().skip(11).take(4).filter_map(|ticks| ticks.parse::<f64>().ok());
    TICK * ticks.sum::<f64>()
}

/// A process and its children.
fn family(pid: u32) -> Vec<u32> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|other| *other == pid || parent(*other) == Some(pid)).collect()
}

pub fn family_cpu(pid: u32) -> f64 {
    family(pid).into_iter().map(cpu).sum()
}

/// Megabytes in memory, what is shared divided among those who share it.
pub fn family_memory(pid: u32) -> f64 {
    family(pid).into_iter().map(|pid| megabytes(pid, "smaps_rollup", "Pss:")).sum()
}

/// Megabytes in memory.
pub fn memory(pid: u32) -> f64 {
    megabytes(pid, "status", "VmRSS:")
}

/// The most that it ever was since [`forget_peak`].
pub fn peak_memory(pid: u32) -> f64 {
    megabytes(pid, "status", "VmHWM:")
}

pub fn forget_peak(pid: u32) {
    // Where it may not be written, the peak is that of the whole run.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

fn megabytes(pid: u32, file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) * 1024.0 / 1e6
}
