//! gRPC's health checking protocol: `grpc.health.v1.Health/Check`, one call over HTTP/2 with prior knowledge.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{LONGEST_BODY, Outcome, authority};
use vaquita_backends::{Sandbox, with_causes};

/// The status of a service that works: `SERVING`.
const SERVING: u64 = 1;
/// What upstream's prober says of a service that does not.
const UNHEALTHY: &str = "service unhealthy (responded with";

/// Asks the service at a port of the pod whether it works; `service` may be empty.
pub(super) async fn check(sandbox: &dyn Sandbox, port: u16, service: &str) -> Outcome {
    let authority = authority(sandbox.ip(), port);
    match call(sandbox, port, &authority, service).await {
        Ok(SERVING) => Outcome::Success,
        Ok(status) => {
            let name = match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "an unknown status",
            };
            Outcome::Failure(format!("{UNHEALTHY} \"{name}\")"))
        }
        Err(why) => Outcome::Failure(format!("error: health rpc failed: {why}")),
    }
}

async fn call(
    sandbox: &dyn Sandbox,
    port: u16,
    authority: &str,
    service: &str,
) -> Result<u64, String> {
    let stream = sandbox.dial(port).await;
    let stream = stream.map_err(|error| format!("dial tcp {authority}: {error}"))?;
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| with_causes(&error))?;
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.36")
        .body(Full::new(question(service)));
    let request = request.map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| with_causes(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST_BODY).collect().await;
        let body = body.map_err(|error| error.to_string())?;
        let code = body
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status"))
            .or(head.headers.get("grpc-status"))
            .and_then(|code| code.to_str().ok()?.parse().ok());
        match code {
            Some(0) => {}
            Some(code) => return Err(format!("the call ended with code {code}")),
            None => return Err(format!("it is no gRPC: status {}", head.status)),
        }
        answer(&body.to_bytes()).ok_or_else(|| "the answer is malformed".to_owned())
    };
    tokio::pin!(exchange);
    tokio::select! {
        outcome = &mut exchange => outcome,
        _ = connection => exchange.await,
    }
}

/// `HealthCheckRequest { service = 1 }`, as gRPC frames it.
fn question(service: &str) -> Bytes {
    // Longer names are no services: the length then fits into one byte.
    let service = &service.as_bytes()[..service.len().min(127)];
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        message.extend_from_slice(&[u8::try_from(service.len()).unwrap_or(0)]);
        message.extend_from_slice(service);
    }
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(0));
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// `HealthCheckResponse { status = 1 }`: its status, which is absent for 0.
fn answer(framed: &[u8]) -> Option<u64> {
    let (head, message) = framed.split_at_checked(5)?;
    let [0, length @ ..] = head else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if message.len() != usize::try_from(length).ok()? {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status] if *status < 0x80 => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed() {
        assert_eq!(question(""), &[0, 0, 0, 0, 0][..]);
        assert_eq!(question("db"), &[0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b'][..]);
        assert_eq!(answer(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(answer(&[0, 0, 0, 0, 0]), Some(0));
        for bad in [
            &[][..],
            &[1, 0, 0, 0, 0],
            &[0, 0, 0, 0, 9, 8, 1],
            &[0, 0, 0, 0, 1, 8],
        ] {
            assert_eq!(answer(bad), None, "{bad:?}");
        }
    }
}
