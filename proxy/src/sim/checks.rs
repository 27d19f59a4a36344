//! What is compared at rest and at the end beyond sockets and tasks: memory, connections and requests as counted by
//! the simulated network and its peers.

use selvedge_runtime::sim::allocations;

use super::Run;

/// Blocks that a second round of the same requests may leave where the first had not made them: statistics that come
/// when something first happens. Of four clusters on two shards seven histograms and tables of codes each, and twelve
/// blocks of the filters' own numbers; and the first entry of some slabs and lists.
const FIRST_TIMES: i64 = 4 * 2 * (7 + 12) + 40;

impl Run<'_> {
    /// The clients come again, with the same requests: they leave no more memory behind than the first time.
    pub(super) fn encore(&self, first: usize) {
        let before = self.live_blocks();
        self.start_clients(first..self.scenario.clients.len());
        let all = self.scenario.clients.len();
        if !self.drive(None, || self.clients_done.get() == all) {
            if !self.broken.get() {
                self.ledger.violation("the second round never comes to its end".to_owned());
            }
            return;
        }
        self.rest();
        let grown = self.live_blocks().zip(before).map(|(after, before)| after - before);
        if let Some(grown) = grown {
            self.world.happened("memory compared after the same again");
            if grown > FIRST_TIMES {
                self.ledger.violation(format!("the same requests again left {grown} blocks of memory"));
            }
        }
    }

    /// Live blocks of memory, without what was written to the log and the buffers that hosts have made and keep.
    fn live_blocks(&self) -> Option<i64> {
        let hosts = self.shards.iter().map(|s| &s.runtime).chain(&self.peers);
        let buffers: usize = hosts.map(|host| host.handle().buffer_allocations()).sum();
        let kept = i64::try_from(self.log.lines().len() + buffers).expect("few");
        allocations::live().map(|live| live - kept)
    }

    /// Connections and requests, as network and peers have seen them.
    pub(super) fn check_counts(&self) {
        let accepted: u64 = self.shards.iter().map(|s| s.runtime.handle().accepted()).sum();
        let begun = self.sum("http.main.downstream_cx_total");
        if accepted != begun {
            self.ledger.violation(format!("{accepted} connections were accepted, {begun} counted"));
        }
        let of_clusters = (0..self.scenario.clusters.len()).map(|n| format!("cluster.c{n}."));
        let names = of_clusters.chain(["cluster.authz.".to_owned()]).map(|c| c + "upstream_rq_total");
        let counted: u64 = names.map(|name| self.sum(&name)).sum();
        let read = self.ledger.forwarded();
        if counted < read || (self.scenario.calm && self.ledger.closings() == 0 && counted > read) {
            self.ledger.violation(format!("upstreams read {read} requests, {counted} were counted"));
        }
    }
}
