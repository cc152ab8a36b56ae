//! Threads of Rust that wait below methods, closures and a call through a trait: -O; on aarch64 static with musl.

use std::{
    collections::BTreeMap,
    io::Read as _,
    net::TcpListener,
    sync::{Condvar, Mutex, mpsc},
    thread,
    time::Duration,
};

static STOCK: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

trait Order {
    fn reserve(&self, count: u32) -> u32;
}

struct Item<T>(T);

impl<T: AsRef<str>> Order for Item<T> {
    #[inline(never)]
    fn reserve(&self, count: u32) -> u32 {
        let mut stock = STOCK.lock().unwrap();
        let left = stock.entry(self.0.as_ref().to_owned()).or_insert(count);
        *left -= 1;
        *left
    }
}

#[inline(never)]
fn next(queue: &(Mutex<Vec<u32>>, Condvar)) -> u32 {
    let mut items = queue.0.lock().unwrap();
    while items.is_empty() {
        items = queue.1.wait(items).unwrap();
    }
    items[0]
}

#[inline(never)]
fn request() -> usize {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut bytes = [0; 64];
    let (mut stream, _) = listener.accept().unwrap();
    stream.read(&mut bytes).unwrap_or(0) + 1
}

fn main() {
    let _held = STOCK.lock().unwrap();
    let (_sender, receiver) = mpsc::channel::<u32>();
    let threads = [
        thread::spawn(|| {
            let orders: Vec<Box<dyn Order>> = vec![Box::new(Item("it"))];
            orders.iter().map(|order| order.reserve(2)).sum::<u32>() as usize
        }),
        thread::spawn(|| next(&(Mutex::new(Vec::new()), Condvar::new())) as usize),
        thread::spawn(move || receiver.recv().map_or(0, |number| number as usize + 1)),
        thread::spawn(request),
        thread::spawn(|| {
            thread::sleep(Duration::from_secs(100_000));
            1
        }),
    ];
    for thread in threads {
        println!("{:?}", thread.join());
    }
}
