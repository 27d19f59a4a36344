//! Reads what the monitors watch. Control thread: files of a few bytes.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "control thread")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use selvedge_runtime::memory;

use super::Reading;
use super::cpu::{self, Utilization};
use crate::config::overload::{MonitorKind, Overload};
use crate::limits::MONITOR_BYTES;

/// The monitors of one overload manager, and what they remember.
#[derive(Debug)]
pub struct Monitors {
    watched: Vec<Watched>,
    started: Instant,
}

#[derive(Debug)]
enum Watched {
    Heap { max_bytes: u64 },
    Cgroup { max_bytes: Option<u64> },
    Host(Utilization),
    Container(Utilization),
    Injected { file: Box<str>, seen: Option<(u64, u64)>, pressure: Option<f64> },
    Connections,
}

impl Monitors {
    pub fn new(config: Option<&Overload>) -> Monitors {
        let watch = |kind: &MonitorKind| match kind {
            MonitorKind::FixedHeap { max_bytes } => Watched::Heap { max_bytes: *max_bytes },
            MonitorKind::CgroupMemory { max_bytes } => Watched::Cgroup { max_bytes: *max_bytes },
            MonitorKind::CpuOfHost => Watched::Host(Utilization::default()),
            MonitorKind::CpuOfContainer => Watched::Container(Utilization::default()),
            MonitorKind::Injected { file } => {
                Watched::Injected { file: file.clone(), seen: None, pressure: None }
            }
            MonitorKind::DownstreamConnections { .. } => Watched::Connections,
        };
        let monitors = config.into_iter().flat_map(|c| &c.monitors);
        Monitors { watched: monitors.map(|m| watch(&m.kind)).collect(), started: Instant::now() }
    }

    /// One reading of each.
    pub fn read(&mut self) -> Vec<Reading> {
        let now = self.started.elapsed();
        self.watched.iter_mut().map(|watched| read(watched, now)).collect()
    }
}

fn read(watched: &mut Watched, now: Duration) -> Reading {
    let pressure = match watched {
        Watched::Heap { max_bytes } => memory::used().map(|used| share(used.private, *max_bytes)),
        Watched::Cgroup { max_bytes } => memory::cgroup().map(|cgroup| {
            let limit = cgroup.limit.unwrap_or(u64::MAX).min(max_bytes.unwrap_or(u64::MAX));
            share(cgroup.used, limit)
        }),
        Watched::Host(cpu) => cpu.next(cpu::host(&text("/proc/stat"))),
        Watched::Container(cpu) => cpu.next(container(now)),
        Watched::Injected { file, seen, pressure } => {
            //= envoy: the file is read when another is moved to its place
            if let Ok(found) = fs::metadata(&**file)
                && *seen != Some((found.dev(), found.ino()))
            {
                *seen = Some((found.dev(), found.ino()));
                *pressure = text(file).trim().parse().ok().filter(|p| (0.0..=1.0).contains(p));
            }
            *pressure
        }
        Watched::Connections => return Reading::None,
    };
    pressure.map_or(Reading::Failed, Reading::Pressure)
}

fn container(now: Duration) -> Option<cpu::Times> {
    let own = |name: &str| text(&format!("/sys/fs/cgroup/{name}"));
    cpu::container_v2(&own("cpu.stat"), &own("cpu.max"), &own("cpuset.cpus.effective"), now)
        .or_else(|| cpu::container_v1(&own("cpuacct/cpuacct.usage"), &own("cpu/cpu.shares"), now))
}

#[expect(clippy::cast_precision_loss, reason = "a share of bytes")]
fn share(used: u64, limit: u64) -> f64 {
    used as f64 / limit as f64
}

/// The beginning of a file: what is read here is short, or its first lines count.
fn text(path: &str) -> String {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(MONITOR_BYTES).read_to_end(&mut bytes));
    read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
}
