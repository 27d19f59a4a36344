//! Asks the system's name servers, for the control machine.
#![allow(clippy::disallowed_types, reason = "control thread")]

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use tokio::sync::mpsc::UnboundedSender;

use super::machine::Input;
use crate::config::cluster::DnsFamily;
use crate::upstream::dns::{Answer, Question};

/// One resolver for each wish about families.
#[derive(Default)]
pub(super) struct Resolvers(HashMap<DnsFamily, Option<TokioResolver>>);

impl Resolvers {
    /// Asks in a task of its own. The answer is an input.
    pub(super) fn ask(&mut self, question: Question, out: &UnboundedSender<Input>) {
        let made = self.0.entry(question.family).or_insert_with(|| match resolver(question.family) {
            Ok(resolver) => Some(resolver),
            Err(error) => {
                crate::log::error("dns", &format!("no resolver: {error}"));
                None
            }
        });
        let (resolver, out) = (made.clone(), out.clone());
        tokio::spawn(async move {
            let answer = match resolver {
                Some(resolver) => look_up(&resolver, &question.name).await,
                None => Answer::Failed,
            };
            let _the_process_ends = out.send(Input::Answer { cluster: question.cluster, answer });
        });
    }
}

fn resolver(family: DnsFamily) -> Result<TokioResolver, String> {
    let mut builder = TokioResolver::builder_tokio().map_err(|e| e.to_string())?;
    let own = builder.options_mut();
    own.cache_size = 0;
    own.ip_strategy = match family {
        DnsFamily::V4Only => LookupIpStrategy::Ipv4Only,
        DnsFamily::V6Only => LookupIpStrategy::Ipv6Only,
        //= envoy: AUTO asks for IPv6 first and takes IPv4 only where there is none
        DnsFamily::Auto => LookupIpStrategy::Ipv6thenIpv4,
        DnsFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        DnsFamily::All => LookupIpStrategy::Ipv4AndIpv6,
    };
    builder.build().map_err(|e| e.to_string())
}

async fn look_up(resolver: &TokioResolver, host: &str) -> Answer {
    match resolver.lookup_ip(host).await {
        Ok(found) => {
            let lives = found.valid_until().saturating_duration_since(Instant::now());
            let mut addresses: Vec<IpAddr> = found.iter().collect();
            addresses.sort();
            addresses.dedup();
            if addresses.is_empty() { Answer::Empty } else { Answer::Addresses(addresses, lives) }
        }
        Err(error) if error.is_no_records_found() || error.is_nx_domain() => Answer::Empty,
        Err(_) => Answer::Failed,
    }
}
