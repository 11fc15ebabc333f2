//! What this process may use of the machine, by the limits of its container.

use std::path::Path;

/// Threads that hash passwords: one a processor, but at most half of the memory for their blocks of
/// `block_bytes`. The processors are those of the control group's quota, of version 1 and 2, as the
/// standard library finds them.
pub fn hashing_threads(block_bytes: u64) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    at_most_half(processors, memory_limit(Path::new("/sys/fs/cgroup"), &groups), block_bytes)
}

fn at_most_half(processors: usize, limit: Option<u64>, block_bytes: u64) -> usize {
    let fit = limit.and_then(|limit| usize::try_from(limit / 2 / block_bytes).ok());
    fit.map_or(processors, |fit| processors.min(fit)).max(1)
}

/// Bytes of memory that the control groups allow: the least of this process's own group and all
/// above it, of version 2 (`memory.max`) and 1 (`memory.limit_in_bytes`). `groups` as in
/// `/proc/self/cgroup`; a container without a namespace of its own sees its host's path there and
/// its own group at the root.
fn memory_limit(root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let (mount, file) = if controllers.is_empty() {
            (root.to_owned(), "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            return Vec::new();
        };
        let own = Path::new(path.trim_start_matches('/'));
        let read = |group: &Path| std::fs::read_to_string(mount.join(group).join(file)).ok();
        own.ancestors().filter_map(read).filter_map(|limit| limit.trim().parse().ok()).collect()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of control groups: files and what they hold.
    fn limit(files: &[(&str, &str)], groups: &str) -> Option<u64> {
        let root = tempfile::tempdir().expect("a folder");
        for (file, text) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().expect("inside")).expect("a folder");
            std::fs::write(path, text).expect("written");
        }
        memory_limit(root.path(), groups)
    }

    #[test]
    fn the_least_limit_of_the_own_group_and_those_above_it_counts() {
        let (parent, own) = ("app/memory.max", "app/web/memory.max");
        let files = [("memory.max", "max\n"), (parent, "536870912\n"), (own, "1073741824\n")];
        assert_eq!(limit(&files, "0::/app/web\n"), Some(536_870_912));
        assert_eq!(limit(&files[2..], "0::/app/web\n"), Some(1_073_741_824));
        assert_eq!(limit(&files, "0::/elsewhere\n"), None, "max is no limit");
    }

    #[test]
    fn version_1_is_read_too_and_a_container_without_a_namespace_finds_its_group_at_the_root() {
        let files = [("memory/memory.limit_in_bytes", "268435456\n")];
        let groups = "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n0::/\n";
        assert_eq!(limit(&files, groups), Some(268_435_456));
        assert_eq!(limit(&files, "5:cpu,cpuacct:/\n"), None);
    }

    #[test]
    fn what_cannot_be_read_is_no_limit() {
        for groups in ["", "nonsense", "0::", "4:memory"] {
            assert_eq!(limit(&[("memory.max", "-5")], groups), None);
        }
    }

    #[test]
    fn hashing_takes_at_most_half_of_the_memory_but_one_thread_in_any_case() {
        let megabytes = |count: u64| Some(count << 20);
        assert_eq!(at_most_half(8, None, 19 << 20), 8);
        assert_eq!(at_most_half(8, megabytes(512), 19 << 20), 8);
        assert_eq!(at_most_half(8, megabytes(128), 19 << 20), 3);
        assert_eq!(at_most_half(8, megabytes(16), 19 << 20), 1);
    }
}
