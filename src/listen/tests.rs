use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::*;

fn config(path: impl Into<PathBuf>) -> ListenConfig {
    ListenConfig {
        path: path.into(),
        mode: 0o660,
        group: None,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_new_socket_has_the_configured_mode_and_is_removed_with_its_listener() {
    let dir = tempfile::tempdir().unwrap();
    for wanted in [0o600, 0o660, 0o666] {
        let config = ListenConfig {
            mode: wanted,
            ..config(dir.path().join("sds.sock"))
        };
        let listener = Listener::bind(&config).unwrap();
        assert_eq!(mode(&config.path), wanted);
        drop(listener);
        assert!(!config.path.exists());
    }
}

#[test]
fn before_it_has_its_mode_only_the_owner_can_connect() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sds.sock");
    let _socket = bind::bind_narrow(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_connection_has_its_peer() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::bind(&config(dir.path().join("sds.sock"))).unwrap();
    let _client = UnixStream::connect(listener.path()).await.unwrap();
    let (_stream, peer) = listener.accept().await;
    assert_eq!(peer.pid(), Some(std::process::id().try_into().unwrap()));
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sds.sock");
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists(), "as a crash leaves it");

    let listener = Listener::bind(&config(&path)).unwrap();
    let _client = UnixStream::connect(&path).await.unwrap();
    listener.accept().await;
}

#[tokio::test]
async fn a_socket_in_use_is_left_to_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sds.sock");
    let owner = Listener::bind(&config(&path)).unwrap();
    let error = Listener::bind(&config(&path)).unwrap_err();
    assert!(matches!(error, ListenError::Live(_)), "{error}");
    assert!(error.to_string().contains("another process listens on"));

    let _client = UnixStream::connect(&path).await.unwrap();
    owner.accept().await;
}

#[tokio::test]
async fn what_is_not_a_socket_is_never_changed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();

    for path in [&file, &link, &folder] {
        let error = Listener::bind(&config(path)).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
    }
    assert_eq!(fs::read_to_string(&link).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn of_many_agents_started_at_once_one_gets_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sds.sock");
    for _ in 0..20 {
        drop(StdListener::bind(&path).unwrap());
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let config = config(&path);
                tokio::spawn(async move { Listener::bind(&config) })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(listener) => winners.push(listener),
                Err(error) => assert!(matches!(error, ListenError::Live(_)), "{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        let _client = UnixStream::connect(&path).await.unwrap();
        winners[0].accept().await;
        drop(winners);
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn the_socket_of_a_successor_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sds.sock");
    let first = Listener::bind(&config(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    let _second = Listener::bind(&config(&path)).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    drop(first);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
}

#[tokio::test]
async fn a_lock_on_the_folder_does_not_prevent_an_agent_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let folder = fs::File::open(dir.path()).unwrap();
    folder.lock().unwrap();
    let path = dir.path().join("sds.sock");
    let listener = Listener::bind(&config(&path)).unwrap();
    drop(listener);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_lock_file_that_others_can_open_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("sds.sock.lock");
    fs::write(&lock, "").unwrap();
    fs::set_permissions(&lock, PermissionsExt::from_mode(0o644)).unwrap();
    let error = Listener::bind(&config(dir.path().join("sds.sock"))).unwrap_err();
    assert!(matches!(error, ListenError::ForeignLock(_)), "{error}");

    // One that a crash has left behind is.
    fs::set_permissions(&lock, PermissionsExt::from_mode(0o600)).unwrap();
    Listener::bind(&config(dir.path().join("sds.sock"))).unwrap();
}

#[tokio::test]
async fn only_the_last_folder_is_created() {
    let dir = tempfile::tempdir().unwrap();
    let near = dir.path().join("sds-agent/sds.sock");
    let _listener = Listener::bind(&config(&near)).unwrap();
    assert!(fs::metadata(&near).unwrap().file_type().is_socket());

    let far = dir.path().join("a/b/sds.sock");
    let error = Listener::bind(&config(far)).unwrap_err();
    assert!(matches!(error, ListenError::NoFolder { .. }), "{error}");
    assert!(error.to_string().contains("install -d"), "{error}");
}

#[tokio::test]
async fn a_path_that_can_not_be_a_sockets_is_refused() {
    for path in [
        format!("/tmp/{}", "x".repeat(110)),
        "/".into(),
        "/tmp/..".into(),
    ] {
        let error = Listener::bind(&config(path)).unwrap_err();
        assert!(matches!(error, ListenError::Path { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_adopted_socket_stays_when_the_agent_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sds.sock");
    let systemd = StdListener::bind(&path).unwrap();

    let listener = Listener::adopt(systemd.try_clone().unwrap()).unwrap();
    assert_eq!(listener.path(), path);
    drop(listener);
    assert!(path.exists());
    UnixStream::connect(&path).await.unwrap();
}

#[test]
fn the_group_of_the_configuration_must_exist() {
    let listen = |group: &str| Listen {
        group: Some(group.parse().unwrap()),
        ..Listen::default()
    };
    assert_eq!(
        ListenConfig::resolve(&listen("root")).unwrap().group,
        Some(0)
    );
    assert_eq!(
        ListenConfig::resolve(&listen("77")).unwrap().group,
        Some(77)
    );
    let error = ListenConfig::resolve(&listen("no-such-group")).unwrap_err();
    assert!(error.to_string().contains("no-such-group"), "{error}");
}
