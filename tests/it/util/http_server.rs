//! A server with the responses that a test needs and that no real server sends.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The response to a request.
pub(crate) enum Answer {
    /// A status, and a JSON body.
    Json(u16, serde_json::Value),
    /// A status, and a body as it is.
    Text(u16, String),
    /// A body that never ends: nothing is sent, and the connection stays open.
    Silence,
    /// A body that ends before any content.
    Nothing,
}

/// A server on a port of this machine; its threads end with the test process.
pub(crate) struct HttpServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl HttpServer {
    /// Answers each request by its path and query.
    pub(crate) fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (answer, seen) = (Arc::new(answer), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                thread::spawn(move || serve(stream, answer.as_ref(), &seen));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far that contain this text.
    pub(crate) fn count(&self, piece: &str) -> usize {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|path| path.contains(piece)).count()
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&str) -> Answer, seen: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(request)) = lines.next() else {
        return;
    };
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
    {}
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    seen.lock().unwrap().push(path.clone());
    let head = |status: u16| {
        format!(
            "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        )
    };
    // Errors of a client that has disconnected are ignored.
    let _ = match answer(&path) {
        Answer::Json(status, body) => write!(stream, "{}{body}", head(status)),
        Answer::Text(status, body) => write!(stream, "{}{body}", head(status)),
        Answer::Nothing => write!(stream, "{}", head(200)),
        Answer::Silence => {
            let _ = write!(stream, "{}", head(200));
            // Until the client disconnects.
            lines.next();
            Ok(())
        }
    };
}
