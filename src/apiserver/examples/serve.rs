//! An API server over a store that forgets, with nothing else of a cluster: for trying `kubectl` out against it.
//!
//! `cargo run -p vaquita-apiserver --example serve -- DIR` writes `DIR/admin.kubeconfig` and serves until Ctrl-C.

use std::{error::Error, path::PathBuf, sync::Arc};

use tokio::net::TcpListener;
use vaquita_apiserver::{ApiServer, Authenticator, Config, User};
use vaquita_pki::Pki;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: serve DIR")?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", listener.local_addr()?);
    let pki = Pki::load_or_create(&dir.join("pki"), &[])?;
    pki.write_admin_files(&dir, &url)?;
    let admin = User::in_process("kubernetes-admin");
    let authenticator = Authenticator::new().with_token(pki.admin_token(), admin);
    let config = Config {
        authenticator,
        ..Config::default()
    };
    let api = ApiServer::start(Arc::new(vaquita_store::memory()), config).await?;
    println!("{url}");
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    api.serve_tls(listener, Arc::new(pki.server_config()?), interrupted)
        .await;
    api.shutdown().await;
    Ok(())
}
