//! What the shell wishes of the virtual address, looked at anew in every turn.

use matriarch_core::decide::Server;

use super::Shell;
use crate::virtual_ip::Wish;

impl Shell {
    /// The address comes with the lead, and goes with it. While it is not known who leads (an agent that has just started
    /// over a running PostgreSQL) or PostgreSQL may still be ended by the guard, it stays as it is: the guard takes it away
    /// at the same deadline.
    pub(super) fn keep_virtual_ip(&self) {
        let wish = match self.leads() {
            true if self.pg.is_primary() => Wish::Take,
            // Promoting, or restarting in place: nobody else has it.
            true => Wish::Leave,
            false if self.may_not_have_it() => Wish::Drop,
            false => Wish::Leave,
        };
        self.virtual_ip.keep(wish);
    }

    fn may_not_have_it(&self) -> bool {
        let given_up =
            self.newest_sync().is_some_and(|sync| sync.leader != *self.options.name() || sync.released.is_some());
        given_up
            || match &self.pg.server {
                Server::Stopped => true,
                Server::Running(running) => running.in_recovery,
                Server::Unready => false,
            }
    }
}
