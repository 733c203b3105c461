//! The OpenAPI document, generated from the handlers and types, on request: it is large and rarely asked for.

use utoipa::OpenApi;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};

use crate::health::{CHECKS, Check};
use crate::{commands, heartbeat, routes, types};

#[derive(OpenApi)]
#[openapi(
    info(title = "Matriarch", description = "REST interface of a member: Patroni's paths and codes, and Matriarch's.", license(name = "Apache-2.0", identifier = "Apache-2.0")),
    paths(
        routes::member, routes::cluster, routes::history, routes::drills, routes::archive, routes::status, routes::metrics_text, routes::openapi_json,
        routes::config, commands::patch_config, commands::put_config, routes::failsafe, commands::failsafe,
        commands::reload, commands::restart, commands::cancel_restart, commands::reinitialize, commands::switchover,
        commands::cancel_switchover, commands::failover, commands::forget, commands::drill, commands::keep_drill,
        commands::check_archive, commands::init_archive, commands::stop,
        heartbeat::heartbeat,
    ),
    components(schemas(types::MemberStatus)),
    tags(
        (name = "health", description = "200 when the condition holds, 503 when not; also HEAD and OPTIONS"),
        (name = "read", description = "Never wait; open unless configured otherwise"),
        (name = "member", description = "Act on the member that is asked; need credentials"),
        (name = "cluster", description = "Act on the cluster; need credentials"),
        (name = "configuration", description = "Dynamic configuration of the cluster"),
    ),
)]
struct Document;

/// The document as JSON text.
pub fn document() -> String {
    let mut document = Document::openapi();
    let components = document.components.get_or_insert_default();
    let scheme = |scheme| SecurityScheme::Http(Http::new(scheme));
    components.add_security_scheme("token", scheme(HttpAuthScheme::Bearer));
    components.add_security_scheme("basic", scheme(HttpAuthScheme::Basic));
    let operations = document
        .paths
        .paths
        .values_mut()
        .flat_map(|path| [&mut path.post, &mut path.put, &mut path.patch, &mut path.delete].into_iter().flatten());
    for operation in operations {
        let refused = ResponseBuilder::new().description("No client certificate was shown (verify_client)").build();
        operation.responses.responses.insert("403".to_owned(), RefOr::T(refused));
    }
    for (path, check, summary) in CHECKS {
        document.paths.paths.insert((*path).to_owned(), health_check(*check, summary));
    }
    document.to_pretty_json().expect("a document of strings and maps is always JSON")
}

fn health_check(check: Check, summary: &str) -> PathItem {
    let answer = |text: &str| {
        let response = ResponseBuilder::new().description(text);
        if check.is_probe() {
            return response.build();
        }
        let schema = RefOr::Ref(Ref::from_schema_name("MemberStatus"));
        response.content("application/json", ContentBuilder::new().schema(Some(schema)).build()).build()
    };
    let mut operation = OperationBuilder::new()
        .tag("health")
        .summary(Some(summary))
        .response("200", answer("So it is"))
        .response("503", answer("It is not so"));
    for (name, text) in parameters(check) {
        let parameter = ParameterBuilder::new().name(*name).parameter_in(ParameterIn::Query).description(Some(*text));
        operation = operation.parameter(parameter);
    }
    PathItem::new(HttpMethod::Get, operation)
}

fn parameters(check: Check) -> &'static [(&'static str, &'static str)] {
    const LAG: (&str, &str) = ("lag", "Largest lag in bytes that still passes; units such as 10MB are understood");
    const MODE: (&str, &str) = ("mode", "'apply' (default) counts replayed WAL, 'write' received WAL");
    const STATE: (&str, &str) = ("replication_state", "Passes only with this replication state, such as 'streaming'");
    const TAG: (&str, &str) = ("tag_NAME", "Passes only when the member's tag NAME has this value");
    match check {
        Check::Primary | Check::Leader | Check::StandbyLeader | Check::Liveness => &[],
        Check::Readiness => &[LAG, MODE],
        Check::Health => &[TAG],
        _ => &[LAG, STATE, TAG],
    }
}
