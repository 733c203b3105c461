//! The etcd engine against the suite: a current one, alone and three of them, and the distribution's.

use std::sync::Arc;
use std::time::Duration;

use matriarch_dcs::EtcdStore;
use matriarch_dcs::conformance::{Handle, Pace};
use matriarch_dcs::etcd::{Endpoint, EtcdOptions, Servers};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::etcd::{self, EtcdCluster, Plan};

/// Leases of less than two seconds are lengthened by etcd; their ends are looked for twice a second.
const PACE: Pace = Pace { ttl: Duration::from_secs(2), expiry: Duration::from_secs(3), news: Duration::from_secs(1) };

fn servers(cluster: &EtcdCluster) -> Servers {
    let endpoint = |port| Endpoint { host: "127.0.0.1".to_owned(), port, tls: false };
    Servers::Listed(cluster.ports().into_iter().map(endpoint).collect())
}

/// A cluster of its own for each case, since revisions are counted for all keys of an etcd together.
fn fixture(plan: Plan) -> impl Fn() -> std::future::Ready<Handle> {
    let dir = TestDir::new("etcd");
    let cluster = plan.start(&dir);
    move || {
        // The folder lives as long as the cluster.
        let _ = &dir;
        // Nothing is to fail here: a machine that is busy with other tests may keep any request waiting.
        let (attempt_timeout, request_timeout) = (Duration::from_secs(20), Duration::from_secs(60));
        let options = EtcdOptions { attempt_timeout, request_timeout, ..EtcdOptions::new(servers(&cluster)) };
        let store = EtcdStore::open(options, "/service/demo/");
        std::future::ready(Arc::new(store.expect("nothing to be refused")) as Handle)
    }
}

mod current {
    use super::*;
    matriarch_dcs::conformance_tests!(PACE, fixture(Plan::new(etcd::current())));
}

mod three {
    use super::*;
    matriarch_dcs::conformance_tests!(PACE, fixture(Plan::new(etcd::current()).nodes(3)));
}

mod distribution {
    use super::*;
    matriarch_dcs::conformance_tests!(PACE, {
        let Some(etcd) = etcd::distribution() else {
            matriarch_testkit::skipped("no etcd of a distribution is installed (etcd-server)");
            return;
        };
        fixture(Plan::new(etcd))
    });
}
