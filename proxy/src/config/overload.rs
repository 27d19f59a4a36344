//! Compiles the overload manager: monitors, actions with their triggers, timers that shrink.
//!
//! Refused until they do something here: points that shed load, accounting of streams' memory (HTTP/2 only), timers
//! of flushes.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::overload::v3 as pb;
use envoy_types::pb::envoy::extensions::resource_monitors as monitors;
use envoy_types::pb::google::protobuf::Any;

use crate::config::rejection::{At, Fault};
use crate::config::runtime_values::RuntimeValues;
use crate::config::values;
use crate::overload::Effect;

/// A compiled overload manager.
#[derive(Debug)]
pub struct Overload {
    pub refresh: Duration,
    pub monitors: Vec<Monitor>,
    pub actions: Vec<Action>,
    pub timers: Timers,
}

#[derive(Debug, PartialEq)]
pub struct Monitor {
    pub name: Arc<str>,
    pub kind: MonitorKind,
}

#[derive(Debug, PartialEq, Eq)]
pub enum MonitorKind {
    FixedHeap {
        max_bytes: u64,
    },
    CgroupMemory {
        max_bytes: Option<u64>,
    },
    CpuOfHost,
    CpuOfContainer,
    Injected {
        file: Box<str>,
    },
    /// Asked where a connection comes; it has no pressure that could trigger anything.
    DownstreamConnections {
        max: u64,
    },
}

#[derive(Debug, PartialEq)]
pub struct Action {
    pub name: Arc<str>,
    pub effects: Vec<Effect>,
    pub shrink: Option<ShrinkHeap>,
    pub triggers: Vec<Trigger>,
}

/// Gives free memory back every `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShrinkHeap {
    pub interval: Duration,
}

#[derive(Debug, PartialEq)]
pub struct Trigger {
    /// Index of the monitor.
    pub monitor: usize,
    pub rule: Rule,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    Threshold(f64),
    /// Invariant: the first is below the second.
    Scaled(f64, f64),
}

/// How short a timer becomes under full pressure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Floor {
    At(Duration),
    Percent(f64),
}

/// The timers that pressure shortens; `None`: it does not.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timers {
    pub connection_idle: Option<Floor>,
    pub stream_idle: Option<Floor>,
    pub connection_max: Option<Floor>,
}

const MESSAGE: &str = "OverloadManager";
const PREFIX: &str = "envoy.overload_actions.";
const REFRESH: Duration = Duration::from_secs(1);
const SHRINK_EVERY: Duration = Duration::from_secs(10);
const SCALE_TIMERS: &str = "envoy.config.overload.v3.ScaleTimersOverloadActionConfig";
const SHRINK: &str = "envoy.config.overload.v3.ShrinkHeapConfig";

impl Overload {
    /// Downstream connections over all listeners and shards.
    pub fn max_connections(&self) -> Option<u64> {
        self.monitors.iter().find_map(|m| match m.kind {
            MonitorKind::DownstreamConnections { max } => Some(max),
            _ => None,
        })
    }
}

pub fn compile(
    config: &pb::OverloadManager,
    runtime: &RuntimeValues,
    at: &At<'_>,
) -> Result<Overload, Fault> {
    if config.resource_monitors.is_empty() {
        return Err(at.field(MESSAGE, "resource_monitors").violates("value must contain at least 1 item(s)"));
    }
    let mut found = Overload {
        refresh: values::duration_or(
            config.refresh_interval.as_ref(),
            REFRESH,
            &at.field(MESSAGE, "refresh_interval"),
        )?,
        monitors: Vec::new(),
        actions: Vec::new(),
        timers: Timers::default(),
    };
    for (i, monitor) in config.resource_monitors.iter().enumerate() {
        let here = at.item(MESSAGE, "resource_monitors", i);
        let monitor = compile_monitor(monitor, runtime, &here)?;
        if found.monitors.iter().any(|m| m.name == monitor.name) {
            return Err(here.refuse(format!("Duplicate resource monitor {}", monitor.name)));
        }
        found.monitors.push(monitor);
    }
    let mut owners = Owners::default();
    for (i, action) in config.actions.iter().enumerate() {
        let here = at.item(MESSAGE, "actions", i);
        let action = compile_action(action, &mut found, &mut owners, &here)?;
        if found.actions.iter().any(|a| a.name == action.name) {
            return Err(here.refuse(format!("Duplicate overload action {}", action.name)));
        }
        found.actions.push(action);
    }
    Ok(found)
}

fn compile_monitor(
    config: &pb::ResourceMonitor,
    runtime: &RuntimeValues,
    at: &At<'_>,
) -> Result<Monitor, Fault> {
    if config.name.is_empty() {
        let name = at.field("ResourceMonitor", "name");
        return Err(name.violates("value length must be at least 1 characters"));
    }
    let unknown = |url: &str| {
        let name = &config.name;
        at.refuse(format!("Didn't find a registered implementation for '{name}' with type URL: '{url}'"))
    };
    let Some(pb::resource_monitor::ConfigType::TypedConfig(any)) = &config.config_type else {
        return Err(unknown(""));
    };
    let inner = at.field("ResourceMonitor", "typed_config").unpacked();
    let kind = match values::type_name(any) {
        "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig" => {
            fixed_heap(&values::unpack(any, &inner)?, runtime, &inner)?
        }
        "envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig" => {
            let own: monitors::cgroup_memory::v3::CgroupMemoryConfig = values::unpack(any, &inner)?;
            MonitorKind::CgroupMemory { max_bytes: Some(own.max_memory_bytes).filter(|n| *n > 0) }
        }
        "envoy.extensions.resource_monitors.cpu_utilization.v3.CpuUtilizationConfig" => {
            let own: monitors::cpu_utilization::v3::CpuUtilizationConfig = values::unpack(any, &inner)?;
            match own.mode {
                0 => MonitorKind::CpuOfHost,
                1 => MonitorKind::CpuOfContainer,
                _ => {
                    let mode = inner.field("CpuUtilizationConfig", "mode");
                    return Err(mode.violates("value must be one of the defined enum values"));
                }
            }
        }
        "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig" => {
            let own: monitors::injected_resource::v3::InjectedResourceConfig = values::unpack(any, &inner)?;
            if own.filename.is_empty() {
                let file = inner.field("InjectedResourceConfig", "filename");
                return Err(file.violates("value length must be at least 1 characters"));
            }
            MonitorKind::Injected { file: own.filename.into() }
        }
        //= envoy: found by its name, the others by their type
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
            if config.name == "envoy.resource_monitors.global_downstream_max_connections" =>
        {
            downstream_connections(&values::unpack(any, &inner)?, &inner)?
        }
        other => return Err(unknown(other)),
    };
    Ok(Monitor { name: Arc::from(config.name.as_str()), kind })
}

fn fixed_heap(
    config: &monitors::fixed_heap::v3::FixedHeapConfig,
    runtime: &RuntimeValues,
    at: &At<'_>,
) -> Result<MonitorKind, Fault> {
    let max_bytes = match &config.max_heap_size_bytes_runtime {
        Some(_) if config.max_heap_size_bytes > 0 => {
            let reason =
                "fixed_heap: exactly one of max_heap_size_bytes or max_heap_size_bytes_runtime must be set";
            return Err(at.refuse(reason));
        }
        Some(own) => runtime.integer(&own.runtime_key).unwrap_or(own.default_value),
        None => config.max_heap_size_bytes,
    };
    if max_bytes == 0 {
        return Err(at.refuse("fixed_heap: max heap size must be greater than 0"));
    }
    Ok(MonitorKind::FixedHeap { max_bytes })
}

fn downstream_connections(
    config: &monitors::downstream_connections::v3::DownstreamConnectionsConfig,
    at: &At<'_>,
) -> Result<MonitorKind, Fault> {
    let max = u64::try_from(config.max_active_downstream_connections).ok().filter(|n| *n > 0);
    let field = at.field("DownstreamConnectionsConfig", "max_active_downstream_connections");
    let max = max.ok_or_else(|| field.violates("value must be greater than 0"))?;
    Ok(MonitorKind::DownstreamConnections { max })
}

/// Of each timer, the action that shortens it.
#[derive(Debug, Default)]
struct Owners([Option<String>; 5]);

fn compile_action(
    config: &pb::OverloadAction,
    whole: &mut Overload,
    owners: &mut Owners,
    at: &At<'_>,
) -> Result<Action, Fault> {
    let name = &config.name;
    if name.is_empty() {
        return Err(at
            .field("OverloadAction", "name")
            .violates("value length must be at least 1 characters"));
    }
    let mut action =
        Action { name: Arc::from(name.as_str()), effects: Vec::new(), shrink: None, triggers: Vec::new() };
    action.triggers = triggers(config, &whole.monitors, at)?;
    let typed = config.typed_config.as_ref();
    let inner = at.field("OverloadAction", "typed_config").unpacked();
    let type_name = typed.map_or("", values::type_name);
    let known = name.strip_prefix(PREFIX);
    //= envoy: a well-known name says what the action is, else the type of its configuration does
    match known {
        Some("shrink_heap") => {
            action.shrink = Some(match typed {
                Some(any) if type_name == SHRINK => shrink_heap(any, &inner)?,
                Some(_) => return Err(conflict(at, name)),
                None => ShrinkHeap { interval: SHRINK_EVERY },
            });
        }
        Some("reduce_timeouts") => match typed {
            Some(any) if type_name == SCALE_TIMERS => {
                action.effects = scale_timers(any, name, &mut whole.timers, owners, &inner)?;
            }
            Some(_) => return Err(conflict(at, name)),
            None => return Err(at.refuse(format!("Overload action \"{name}\" requires typed_config"))),
        },
        Some("reset_high_memory_stream") => {
            let reason =
                "envoy.overload_actions.reset_high_memory_stream is of HTTP/2, which is not implemented yet";
            return Err(at.field("OverloadAction", "name").refuse(reason));
        }
        Some(own) => match Effect::named(own) {
            Some(_) if typed.is_some() => return Err(conflict(at, name)),
            Some(effect) => action.effects.push(effect),
            None if type_name == SCALE_TIMERS => {
                let reason = format!("Overload action name \"{name}\" uses reserved prefix \"{PREFIX}\"");
                return Err(at.refuse(reason));
            }
            None => return Err(at.refuse(format!("Unknown Overload Manager Action {name}"))),
        },
        None => match typed {
            Some(any) if type_name == SCALE_TIMERS => {
                action.effects = scale_timers(any, name, &mut whole.timers, owners, &inner)?;
            }
            _ => return Err(at.refuse(format!("Unknown Overload Manager Action {name}"))),
        },
    }
    Ok(action)
}

fn conflict(at: &At<'_>, name: &str) -> Fault {
    at.refuse(format!("Overload action name \"{name}\" conflicts with its typed config"))
}

fn triggers(config: &pb::OverloadAction, monitors: &[Monitor], at: &At<'_>) -> Result<Vec<Trigger>, Fault> {
    if config.triggers.is_empty() {
        let here = at.field("OverloadAction", "triggers");
        return Err(here.violates("value must contain at least 1 item(s)"));
    }
    let mut found: Vec<Trigger> = Vec::new();
    for (i, one) in config.triggers.iter().enumerate() {
        let here = at.item("OverloadAction", "triggers", i);
        let rule = rule(one, &here)?;
        let Some(monitor) = monitors.iter().position(|m| *m.name == *one.name) else {
            let (resource, action) = (&one.name, &config.name);
            let reason = format!("Unknown trigger resource {resource} for overload action {action}");
            return Err(here.refuse(reason));
        };
        if found.iter().any(|t| t.monitor == monitor) {
            let reason = format!("Duplicate trigger resource for overload action {}", config.name);
            return Err(here.refuse(reason));
        }
        found.push(Trigger { monitor, rule });
    }
    Ok(found)
}

fn rule(config: &pb::Trigger, at: &At<'_>) -> Result<Rule, Fault> {
    use pb::trigger::TriggerOneof;
    if config.name.is_empty() {
        return Err(at.field("Trigger", "name").violates("value length must be at least 1 characters"));
    }
    let share = |value: f64, at: &At<'_>| {
        let fits = (0.0..=1.0).contains(&value);
        if fits { Ok(value) } else { Err(at.violates("value must be inside range [0, 1]")) }
    };
    match &config.trigger_oneof {
        None => Err(at.lacks("trigger_oneof")),
        Some(TriggerOneof::Threshold(own)) => {
            let here = at.field("Trigger", "threshold");
            Ok(Rule::Threshold(share(own.value, &here.field("ThresholdTrigger", "value"))?))
        }
        Some(TriggerOneof::Scaled(own)) => {
            let here = at.field("Trigger", "scaled");
            let from = share(own.scaling_threshold, &here.field("ScaledTrigger", "scaling_threshold"))?;
            let to = share(own.saturation_threshold, &here.field("ScaledTrigger", "saturation_threshold"))?;
            if from >= to {
                return Err(here.refuse("scaling_threshold must be less than saturation_threshold"));
            }
            Ok(Rule::Scaled(from, to))
        }
    }
}

fn shrink_heap(any: &Any, at: &At<'_>) -> Result<ShrinkHeap, Fault> {
    let own: pb::ShrinkHeapConfig = values::unpack(any, at)?;
    let here = at.field("ShrinkHeapConfig", "timer_interval");
    let interval = values::duration_or(own.timer_interval.as_ref(), SHRINK_EVERY, &here)?;
    if interval < Duration::from_secs(1) {
        return Err(here.violates("value must be greater than or equal to 1s"));
    }
    Ok(ShrinkHeap { interval })
}

const TIMER_NAMES: [&str; 5] = [
    "HTTP_DOWNSTREAM_CONNECTION_IDLE",
    "HTTP_DOWNSTREAM_STREAM_IDLE",
    "TRANSPORT_SOCKET_CONNECT",
    "HTTP_DOWNSTREAM_CONNECTION_MAX",
    "HTTP_DOWNSTREAM_STREAM_FLUSH",
];

fn scale_timers(
    any: &Any,
    action: &str,
    timers: &mut Timers,
    owners: &mut Owners,
    at: &At<'_>,
) -> Result<Vec<Effect>, Fault> {
    const OWN: &str = "ScaleTimersOverloadActionConfig";
    let own: pb::ScaleTimersOverloadActionConfig = values::unpack(any, at)?;
    if own.timer_scale_factors.is_empty() {
        let here = at.field(OWN, "timer_scale_factors");
        return Err(here.violates("value must contain at least 1 item(s)"));
    }
    let mut effects = Vec::new();
    for (i, one) in own.timer_scale_factors.iter().enumerate() {
        let here = at.item(OWN, "timer_scale_factors", i);
        let timer = here.field("ScaleTimer", "timer");
        let number = match usize::try_from(one.timer) {
            Ok(0) => return Err(timer.violates("value must not be in list [0]")),
            Ok(n) if n <= TIMER_NAMES.len() => n - 1,
            _ => return Err(timer.violates("value must be one of the defined enum values")),
        };
        let floor = floor(one, &here)?;
        let name = TIMER_NAMES[number];
        match &owners.0[number] {
            Some(owner) if owner == action => {
                return Err(here.refuse(format!("Found duplicate entry for timer type {name}")));
            }
            Some(owner) => {
                let reason =
                    format!("Timer type is configured by both overload actions \"{owner}\" and \"{action}\"");
                return Err(here.refuse(reason));
            }
            None => owners.0[number] = Some(action.to_owned()),
        }
        let (slot, effect) = match number {
            0 => (&mut timers.connection_idle, Effect::ConnectionIdle),
            1 => (&mut timers.stream_idle, Effect::StreamIdle),
            3 => (&mut timers.connection_max, Effect::ConnectionMax),
            // Without TLS nothing is negotiated, and nothing runs that could be shortened.
            2 => continue,
            _ => return Err(timer.refuse(format!("{name} is not implemented yet"))),
        };
        *slot = Some(floor);
        effects.push(effect);
    }
    Ok(effects)
}

fn floor(config: &pb::scale_timers_overload_action_config::ScaleTimer, at: &At<'_>) -> Result<Floor, Fault> {
    use pb::scale_timers_overload_action_config::scale_timer::OverloadAdjust;
    match &config.overload_adjust {
        None => Err(at.lacks("overload_adjust")),
        Some(OverloadAdjust::MinTimeout(own)) => {
            Ok(Floor::At(values::duration(own, &at.field("ScaleTimer", "min_timeout"))?))
        }
        Some(OverloadAdjust::MinScale(own)) => {
            let here = at.field("ScaleTimer", "min_scale");
            if !(0.0..=100.0).contains(&own.value) {
                return Err(here.field("Percent", "value").violates("value must be inside range [0, 100]"));
            }
            Ok(Floor::Percent(own.value))
        }
    }
}
