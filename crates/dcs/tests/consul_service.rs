//! Members in Consul's catalogue. A real agent.

use std::time::{Duration, Instant};

use matriarch_dcs::consul::{ConsulOptions, Endpoint, Instance, ServiceOptions, ServiceRole, follow};
use matriarch_testkit::consul::{ConsulCluster, ConsulNode, ConsulSettings};
use matriarch_testkit::dir::TestDir;
use serde_json::Value;
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(60);

/// Waits until those that are healthy with a tag are the given number; gives them.
async fn tagged(node: &ConsulNode, tag: &str, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let path = format!("/v1/health/service/my-cluster?tag={tag}&passing");
        if let Ok((200, body)) = node.http("GET", &path, "") {
            let found: Vec<Value> = serde_json::from_str(&body).expect("a list");
            if found.len() == count {
                return found;
            }
        }
        assert!(Instant::now() < deadline, "not {count} members are tagged {tag}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_found_by_its_role_and_gone_when_it_leaves() {
    let dir = TestDir::new("consul");
    let cluster = ConsulCluster::start(&dir, 1, &ConsulSettings::default()).expect("a server starts");
    let node = &cluster.nodes[0];
    let service = ServiceOptions {
        scope: "My_Cluster".to_owned(),
        member: "node/1".to_owned(),
        tags: vec!["blue".to_owned()],
        // Longer than the test: what is told at the registration counts.
        check_interval: Duration::from_secs(600),
        check_tls_server_name: None,
        deregister_after: Duration::from_secs(600),
    };
    let instance =
        |role| Instance { role, host: "127.0.0.1".to_owned(), port: 5432, api_url: "http://127.0.0.1:1".to_owned() };
    let (tell, wanted) = watch::channel(None);
    let options = ConsulOptions::at(Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: node.port() });
    let following = tokio::spawn(follow(options, service, wanted));

    tell.send_replace(Some(instance(ServiceRole::Replica)));
    let found = tagged(node, "replica", 1).await;
    assert_eq!(found[0]["Service"]["Address"], "127.0.0.1");
    assert_eq!(found[0]["Service"]["Port"], 5432);
    assert_eq!(found[0]["Service"]["ID"], "My_Cluster/node/1");
    tell.send_replace(Some(instance(ServiceRole::Primary)));
    tagged(node, "primary", 1).await;
    tagged(node, "master", 1).await;
    tagged(node, "blue", 1).await;
    tagged(node, "replica", 0).await;

    tell.send_replace(None);
    tagged(node, "blue", 0).await;
    tell.send_replace(Some(instance(ServiceRole::Replica)));
    tagged(node, "replica", 1).await;
    drop(tell);
    following.await.expect("it ends with its sender");
    tagged(node, "blue", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_away_is_told_when_it_comes() {
    let dir = TestDir::new("consul");
    let mut cluster = ConsulCluster::start(&dir, 1, &ConsulSettings::default()).expect("a server starts");
    cluster.nodes[0].kill();
    let service = ServiceOptions {
        scope: "my-cluster".to_owned(),
        member: "a".to_owned(),
        tags: Vec::new(),
        check_interval: Duration::from_secs(600),
        check_tls_server_name: None,
        deregister_after: Duration::from_secs(600),
    };
    let (host, port) = ("127.0.0.1".to_owned(), 5432);
    let api_url = "http://127.0.0.1:1".to_owned();
    let (_tell, wanted) = watch::channel(Some(Instance { role: ServiceRole::Primary, host, port, api_url }));
    let options = ConsulOptions::at(Endpoint::Unix(cluster.nodes[0].socket()));
    let following = tokio::spawn(follow(options, service, wanted));
    cluster.nodes[0].start().expect("it starts");
    tagged(&cluster.nodes[0], "primary", 1).await;
    following.abort();
}
