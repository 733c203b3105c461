//! Clients that write wherever a server accepts writes, deposed ones too: that is how two primaries show.

use crate::event::Event;
use crate::node::NodeId;
use crate::server::Waiting;
use crate::world::World;

impl World {
    pub(crate) fn client(&mut self, client: usize) {
        for node in 0..self.nodes.len() {
            let this = &self.nodes[node];
            let blocked = this.pg.waiting.iter().any(|commit| commit.client == client);
            if this.moves() && this.pg.writable() && !blocked {
                self.write(client, node);
            }
        }
        let delay = self.random(20, 120);
        self.after(delay, Event::Client(client));
    }

    fn write(&mut self, client: usize, node: NodeId) {
        let uid = self.unique();
        let bytes = 40 + 8 * self.random(0, 20);
        let this = &mut self.nodes[node];
        if this.is_full() {
            return;
        }
        // Files that were deleted can be written to for a while; nobody will ever read that.
        let Some(dir) = this.disk.dir_mut() else { return };
        let timeline = dir.wal.timeline(dir.wal.len());
        let index = dir.wal.append(timeline, bytes, uid);
        this.pg.waiting.push(Waiting { client, uid, index, synchronous: false });
        self.flush_soon(node);
    }
}
