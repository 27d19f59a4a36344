//! Decides: one reading a monitor in, one level an action out. Sans-IO: it knows no file and no clock.

use std::sync::Arc;
use std::time::Duration;

use super::Effect;
use crate::config::overload::{Action, Overload, Rule};

/// What a monitor has found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reading {
    /// 0: idle, 1: at its limit.
    Pressure(f64),
    /// It could not be read: what was decided before stands.
    Failed,
    /// It is none that is read.
    None,
}

/// The state of all actions.
#[derive(Debug)]
pub struct Machine {
    config: Arc<Overload>,
    /// By action, of each of its triggers.
    triggers: Vec<Vec<f32>>,
    /// By action.
    levels: Vec<f32>,
    next_shrink: Duration,
    shrinks: bool,
}

impl Machine {
    pub fn new(config: Arc<Overload>) -> Machine {
        let triggers = config.actions.iter().map(|a| vec![0.0; a.triggers.len()]).collect();
        let levels = vec![0.0; config.actions.len()];
        let next_shrink = shrink_of(&config).map_or(Duration::MAX, |(_, every)| every);
        Machine { config, triggers, levels, next_shrink, shrinks: false }
    }

    /// One round at `now`, counted from the start: a reading for each monitor, in order.
    pub fn poll(&mut self, now: Duration, readings: &[Reading]) {
        for (n, action) in self.config.actions.iter().enumerate() {
            for (trigger, level) in action.triggers.iter().zip(&mut self.triggers[n]) {
                if let Some(Reading::Pressure(pressure)) = readings.get(trigger.monitor) {
                    *level = level_of(trigger.rule, *pressure);
                }
            }
            //= envoy: the state of an action is the highest of its triggers
            self.levels[n] = self.triggers[n].iter().fold(0.0, |a, b| f32::max(a, *b));
        }
        self.shrinks = false;
        //= envoy: a timer of its own that looks at the state, and does not begin with it
        if now >= self.next_shrink
            && let Some((n, every)) = shrink_of(&self.config)
        {
            self.next_shrink = now + every;
            self.shrinks = self.levels[n] >= 1.0;
        }
    }

    /// Actions with their levels between 0 and 1, which is saturated.
    pub fn levels(&self) -> impl Iterator<Item = (&Action, f32)> {
        self.config.actions.iter().zip(self.levels.iter().copied())
    }

    pub fn effects(&self) -> impl Iterator<Item = (Effect, f32)> {
        self.levels().flat_map(|(action, level)| action.effects.iter().map(move |e| (*e, level)))
    }

    /// Whether this round is to give free memory back.
    pub fn shrinks(&self) -> bool {
        self.shrinks
    }
}

fn shrink_of(config: &Overload) -> Option<(usize, Duration)> {
    config.actions.iter().enumerate().find_map(|(n, a)| a.shrink.map(|s| (n, s.interval)))
}

#[expect(clippy::cast_possible_truncation, reason = "envoy: levels have single precision")]
fn level_of(rule: Rule, pressure: f64) -> f32 {
    match rule {
        Rule::Threshold(at) => f32::from(u8::from(pressure >= at)),
        Rule::Scaled(from, _) if pressure <= from => 0.0,
        Rule::Scaled(_, to) if pressure >= to => 1.0,
        Rule::Scaled(from, to) => ((pressure - from) / (to - from)) as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::overload::{Monitor, MonitorKind, ShrinkHeap, Timers, Trigger};

    fn machine(rules: &[(usize, Rule)], shrink: bool) -> Machine {
        let monitor =
            |name: &str| Monitor { name: Arc::from(name), kind: MonitorKind::Injected { file: "f".into() } };
        let action = Action {
            name: Arc::from("a"),
            effects: vec![Effect::StopRequests],
            shrink: shrink.then_some(ShrinkHeap { interval: Duration::from_secs(2) }),
            triggers: rules
                .iter()
                .map(|(monitor, rule)| Trigger { monitor: *monitor, rule: *rule })
                .collect(),
        };
        Machine::new(Arc::new(Overload {
            refresh: Duration::from_secs(1),
            monitors: vec![monitor("x"), monitor("y")],
            actions: vec![action],
            timers: Timers::default(),
        }))
    }

    fn level(machine: &mut Machine, readings: &[Reading]) -> f32 {
        machine.poll(Duration::ZERO, readings);
        machine.levels().next().expect("an action").1
    }

    #[test]
    fn triggers_decide_as_envoys_do() {
        use Reading::{Failed, Pressure};
        let mut threshold = machine(&[(0, Rule::Threshold(0.9))], false);
        for (reading, is) in
            [(Pressure(0.89), 0.0), (Pressure(0.9), 1.0), (Failed, 1.0), (Pressure(0.0), 0.0)]
        {
            assert_eq!(level(&mut threshold, &[reading]), is, "{reading:?}");
        }
        let mut scaled = machine(&[(0, Rule::Scaled(0.2, 0.8))], false);
        for (pressure, is) in [(0.2, 0.0), (0.5, 0.5), (0.8, 1.0), (1.0, 1.0)] {
            assert_eq!(level(&mut scaled, &[Pressure(pressure)]), is, "{pressure}");
        }
        let mut both = machine(&[(0, Rule::Threshold(0.9)), (1, Rule::Scaled(0.0, 1.0))], false);
        assert_eq!(level(&mut both, &[Pressure(0.1), Pressure(0.25)]), 0.25);
        assert_eq!(level(&mut both, &[Pressure(0.95), Pressure(0.25)]), 1.0);
        assert_eq!(level(&mut both, &[Reading::None, Failed]), 1.0, "what was decided stands");
    }

    #[test]
    fn heaps_shrink_at_their_own_pace() {
        let mut machine = machine(&[(0, Rule::Threshold(0.5))], true);
        let mut shrunk = Vec::new();
        for second in 1..=9 {
            let pressure = if second < 7 { 1.0 } else { 0.0 };
            machine.poll(Duration::from_secs(second), &[Reading::Pressure(pressure)]);
            if machine.shrinks() {
                shrunk.push(second);
            }
        }
        assert_eq!(shrunk, [2, 4, 6]);
    }
}
