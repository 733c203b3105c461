//! A proxy with its poolers, in an agent or in a process of its own: it serves at once, and follows the store once that is
//! there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use matriarch_dcs::Store;
use matriarch_proxy::{Luggage, Mover, Proxy, ProxyConfig, ProxyError, Routes, Stats};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::pooler::Poolers;
use crate::router;
use crate::routes::{self, Feed, Handover, News};
use crate::upgrade::Estate;

/// One that serves what it can, and is told nothing yet.
pub struct Routing {
    news: News,
    feed: Feed,
    drain: Duration,
    served: Served,
    /// Its read-write port.
    listen: Option<(SocketAddr, Arc<Stats>)>,
    mover: Option<Mover>,
    /// It goes on where a program before this one made way.
    resumed: bool,
    stop: CancellationToken,
}

type Served = JoinHandle<Result<(), ProxyError>>;

/// One that follows the store.
pub struct Followed {
    /// Ends with the proxy; without one, when everything is to end.
    pub served: Served,
    /// What is beside the proxy; ends with `stop`.
    pub others: JoinHandle<()>,
}

/// How to make one make way for another program.
#[derive(Clone)]
pub struct Movable {
    mover: Option<Mover>,
    routes: watch::Receiver<Arc<Routes>>,
    handover: watch::Receiver<Handover>,
}

impl Routing {
    /// Listens where `proxy` says, if it is to be one at all, and goes on with the connections that are left. Stops with `stop`,
    /// and then drains.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub async fn start(
        proxy: Option<ProxyConfig>,
        drain: Duration,
        left: Option<Luggage>,
        handover: Handover,
        stop: CancellationToken,
    ) -> Result<Routing, ProxyError> {
        let resumed = left.is_some();
        let luggage = left.unwrap_or_default();
        let (news, feed) = routes::news(luggage.routes().clone(), handover);
        if luggage.connections() > 0 {
            let count = luggage.connections();
            match proxy {
                Some(_) => tracing::info!(count, "going on with the connections of the program before this one"),
                None => tracing::warn!(count, "connections end: this program is told to route none"),
            }
        }
        let proxy = match proxy {
            Some(config) => Some(Proxy::resume(config, luggage).await?),
            None => None,
        };
        let listen = proxy.as_ref().and_then(|proxy| Some((*proxy.addresses().read_write.first()?, proxy.stats())));
        let mover = proxy.as_ref().map(Proxy::mover);
        let (seen, told) = (news.routes.clone(), stop.clone());
        let served = tokio::spawn(async move {
            match proxy {
                Some(proxy) => proxy.run(seen, told).await,
                None => {
                    told.cancelled().await;
                    Ok(())
                }
            }
        });
        // Whoever goes on from here may not come back to the runtime so soon.
        tokio::task::yield_now().await;
        Ok(Routing { news, feed, drain, served, listen, mover, resumed, stop })
    }

    /// Why there is nothing to follow yet.
    pub fn stalled(&self, problem: String) {
        self.feed.stalled(problem);
    }

    /// How to make it make way.
    pub fn movable(&self) -> Movable {
        Movable { mover: self.mover.clone(), routes: self.news.routes.clone(), handover: self.news.handover.clone() }
    }

    /// Follows the store, tells it of this router, and runs the poolers.
    pub fn follow(self, store: Arc<dyn Store>, poolers: Poolers) -> Followed {
        let Routing { news, feed, drain, served, listen, resumed, stop, .. } = self;
        // A proxy that leads to the primary has a say in switchovers.
        let announced = listen.map(|(listen, stats)| {
            router::announce_proxy(store.clone(), listen, stats, news.handover.clone(), stop.clone())
        });
        let poolers = poolers.run(&store, &news, &stop, drain, resumed);
        feed.follow(store);
        let others = tokio::spawn(async move {
            poolers.join_all().await;
            if let Some(announced) = announced {
                let _ = announced.await;
            }
        });
        Followed { served, others }
    }

    /// Ends without having followed anything.
    pub fn unfollowed(self) -> Followed {
        Followed { served: self.served, others: tokio::spawn(std::future::ready(())) }
    }
}

impl Movable {
    /// Makes way: what is left to the next program. Connections stand still from now on.
    pub async fn leave(&self) -> Estate {
        let proxy = match &self.mover {
            Some(mover) => mover.pack().await,
            // A pooler is not to take a primary that is not known yet for none.
            None => Some(Luggage::knowing((**self.routes.borrow()).clone())),
        };
        Estate { api: None, handover: *self.handover.borrow(), proxy }
    }
}
