//! The process as the system sees it, under the names that all of Prometheus' clients use. Left out
//! where there is no `/proc`.

use std::fs;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::{Exposition, Kind};

pub fn write(page: &mut Exposition) {
    if let Some(usage) = usage() {
        let help = "Memory of the process that is in RAM.";
        page.single("process_resident_memory_bytes", Kind::Gauge, help, usage.resident_bytes);
        let help = "Address space of the process.";
        page.single("process_virtual_memory_bytes", Kind::Gauge, help, usage.virtual_bytes);
        let help = "CPU time, the system's for the process among it.";
        page.single("process_cpu_seconds_total", Kind::Counter, help, usage.cpu.as_secs_f64());
        if let Some(booted_at) = booted_at() {
            let help = "When the process started, in seconds since 1970.";
            let started_at = (booted_at + usage.started_after_boot).as_secs_f64();
            page.single("process_start_time_seconds", Kind::Gauge, help, started_at);
        }
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        // Without the one that this listing takes.
        let open = descriptors.count().saturating_sub(1);
        page.single("process_open_fds", Kind::Gauge, "Open file descriptors.", open);
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        let help = "File descriptors that may be open.";
        page.single("process_max_fds", Kind::Gauge, help, limit);
    }
}

struct Usage {
    cpu: Duration,
    started_after_boot: Duration,
    virtual_bytes: u64,
    resident_bytes: u64,
}

fn usage() -> Option<Usage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // proc(5): the second field is a name in parentheses, which may hold spaces and parentheses;
    // the next one is the third.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = |ticks: u64| Duration::from_millis(ticks * 1000 / clock_ticks_per_second().max(1));
    Some(Usage {
        cpu: ticks(field(14)? + field(15)?),
        started_after_boot: ticks(field(22)?),
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page_size() as u64,
    })
}

/// Since 1970.
fn booted_at() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(Duration::from_secs(line.trim().parse().ok()?))
}
