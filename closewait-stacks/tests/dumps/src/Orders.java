import java.net.ServerSocket;
import java.net.Socket;
import java.nio.channels.Selector;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ForkJoinPool;
import java.util.concurrent.Future;
import java.util.concurrent.FutureTask;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.locks.ReentrantLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;

/**
 * Threads that wait in all ways that a dump of threads shows, for the tests of closewait.
 *
 * With the argument `pinned`, on JDK 21 and later: as many virtual threads as there are carriers wait for a lock in a synchronized
 * method, and another one waits for it before them. With `mounted`, a virtual thread that runs has a lock for which another one and a thread wait, and two
 * threads wait for each other. Prints `ready` when all wait.
 */
public final class Orders {
    private static final Object INVENTORY = new Object();
    private static final Object SIGNAL = new Object();
    private static final ReentrantLock PRICES = new ReentrantLock();
    private static final ReentrantReadWriteLock STOCK = new ReentrantReadWriteLock();
    private static final CountDownLatch NEVER = new CountDownLatch(1);

    interface Work {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length > 0 && arguments[0].equals("pinned")) {
            pinned();
            return;
        }
        if (arguments.length > 0 && arguments[0].equals("mounted")) {
            mounted();
            return;
        }
        thread("audit", Orders::audit);
        Thread.sleep(200);
        thread("http-1", Orders::reserve);
        thread("http-2", Orders::reserve);
        thread("prices-holder", Orders::reprice);
        Thread.sleep(200);
        thread("prices-waiter", () -> PRICES.lock());
        thread("stock-holder", () -> { STOCK.writeLock().lock(); NEVER.await(); });
        Thread.sleep(100);
        thread("stock-reader", () -> STOCK.readLock().lock());
        thread("signal", () -> { synchronized (SIGNAL) { SIGNAL.wait(); } });
        thread("accept", () -> new ServerSocket(0).accept());
        thread("select", () -> Selector.open().select());
        thread("receive", Orders::receive);
        thread("future", () -> new FutureTask<Integer>(() -> 1).get());
        thread("queue", () -> new LinkedBlockingQueue<Integer>().take());
        thread("put", () -> { LinkedBlockingQueue<Integer> queue = new LinkedBlockingQueue<>(1); queue.put(1); queue.put(2); });
        Thread sleeper = thread("sleep", () -> Thread.sleep(1_000_000));
        thread("join", () -> sleeper.join());
        thread("process", () -> new ProcessBuilder("/usr/bin/sleep", "1000").start().waitFor());
        thread("spins", () -> { long n = 0; while (NEVER.getCount() > 0) { n++; Thread.yield(); } });
        thread("in \"quotes\" #7 prio=5 nid=0x1", () -> NEVER.await());
        thread("two\nlines", () -> NEVER.await());
        thread("заказ", () -> NEVER.await());
        ExecutorService pool = Executors.newFixedThreadPool(3);
        for (int at = 0; at < 3; at++) pool.submit(() -> { }).get();
        Executors.newScheduledThreadPool(1).submit(() -> { }).get();
        ForkJoinPool.commonPool().submit(() -> { }).get();
        Thread.sleep(500);
        System.out.println("ready");
        NEVER.await();
    }

    private static Thread thread(String name, Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (Exception failed) {
                failed.printStackTrace();
            }
        }, name);
        thread.start();
        return thread;
    }

    private static void audit() throws Exception {
        synchronized (INVENTORY) {
            write();
        }
    }

    private static void write() throws Exception {
        Thread.sleep(1_000_000);
    }

    private static void reserve() {
        synchronized (INVENTORY) {
            System.out.println("reserved");
        }
    }

    private static void reprice() throws Exception {
        PRICES.lock();
        NEVER.await();
    }

    private static void receive() throws Exception {
        ServerSocket server = new ServerSocket(0);
        Socket client = new Socket("127.0.0.1", server.getLocalPort());
        client.getInputStream().read();
    }

    private static void pinned() throws Exception {
        ExecutorService virtual =
            (ExecutorService) Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null);
        thread("report", Orders::reprice);
        Thread.sleep(200);
        virtual.submit(() -> PRICES.lock());
        Thread.sleep(200);
        for (int at = 0; at < Runtime.getRuntime().availableProcessors(); at++) virtual.submit(() -> new Orders().finish());
        virtual.submit(() -> { Thread.sleep(1_000_000); return 1; });
        Thread.sleep(500);
        System.out.println("ready");
        NEVER.await();
    }

    private static void mounted() throws Exception {
        ExecutorService virtual =
            (ExecutorService) Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null);
        virtual.submit(() -> { synchronized (INVENTORY) { while (NEVER.getCount() > 0) { } } });
        Thread.sleep(200);
        virtual.submit(() -> Orders.reserve());
        thread("http-1", Orders::reserve);
        Object[] locks = { new Object(), new Object() };
        for (int at = 0; at < 2; at++) {
            Object first = locks[at], second = locks[1 - at];
            thread("deadlock-" + at, () -> { synchronized (first) { Thread.sleep(100); synchronized (second) { } } });
        }
        Thread.sleep(500);
        System.out.println("ready");
        NEVER.await();
    }

    private synchronized void finish() {
        PRICES.lock();
        PRICES.unlock();
    }
}
