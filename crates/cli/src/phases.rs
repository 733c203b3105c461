//! What happens while the primary moves, told as it happens.

use matriarch_api::ClusterStatus;

/// Tells changes of what is seen in lines of text.
#[derive(Debug, Default)]
pub struct Phases {
    leader: Option<String>,
    epoch: u64,
    held: bool,
    leaderless: bool,
    told_leader: bool,
}

impl Phases {
    /// Starts from what is seen before the request.
    pub fn new(cluster: &ClusterStatus) -> Self {
        Phases { leader: cluster.matriarch.leader.clone(), epoch: cluster.matriarch.epoch, ..Phases::default() }
    }

    /// What is new. Views older than one already seen tell nothing: members are asked in turn and lag differently.
    pub fn see(&mut self, cluster: &ClusterStatus) -> Vec<String> {
        let mut lines = Vec::new();
        let detail = &cluster.matriarch;
        if detail.epoch < self.epoch || self.told_leader {
            return lines;
        }
        if detail.handover && !self.held {
            self.held = true;
            lines.push("new work is held; the old primary stops".to_owned());
        }
        match &detail.leader {
            None if !self.leaderless => {
                self.leaderless = true;
                lines.push("the old primary has given up the lead; choosing the new one".to_owned());
            }
            Some(leader) if self.leader.as_ref() != Some(leader) => {
                self.told_leader = true;
                lines.push(format!("{leader} leads (epoch {})", detail.epoch));
            }
            _ => {}
        }
        lines
    }

    /// The new leader has been seen.
    pub fn moved(&self) -> bool {
        self.told_leader
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(leader: Option<&str>, epoch: u64, handover: bool) -> ClusterStatus {
        let mut cluster = ClusterStatus::default();
        cluster.matriarch.leader = leader.map(str::to_owned);
        cluster.matriarch.epoch = epoch;
        cluster.matriarch.handover = handover;
        cluster
    }

    #[test]
    fn tells_each_phase_once() {
        let mut phases = Phases::new(&seen(Some("a"), 7, false));
        assert!(phases.see(&seen(Some("a"), 7, false)).is_empty());
        assert_eq!(phases.see(&seen(Some("a"), 7, true)).len(), 1);
        assert!(phases.see(&seen(Some("a"), 7, true)).is_empty());
        assert_eq!(phases.see(&seen(None, 7, true)).len(), 1);
        assert_eq!(phases.see(&seen(Some("b"), 9, false)), ["b leads (epoch 9)"]);
        assert!(phases.moved() && phases.see(&seen(None, 7, true)).is_empty());
    }
}
