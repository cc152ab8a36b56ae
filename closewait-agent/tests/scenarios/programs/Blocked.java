import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * The JDK's HTTP server with a pool of four workers; whoever asks for /block keeps one for ever, and so does /lock, by a lock that the
 * thread `audit` has.
 */
final class Blocked {
    private static final CountDownLatch NEVER = new CountDownLatch(1);

    private static final AtomicInteger WAITING = new AtomicInteger();
    private static final Object LEDGER = new Object();
    private static final CountDownLatch AUDITED = new CountDownLatch(1);

    public static void main(String[] arguments) throws IOException {
        var address = new InetSocketAddress(InetAddress.getByName("127.0.0.1"), 8080);
        var server = HttpServer.create(address, 64);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.createContext("/", Blocked::answer);
        server.start();
    }

    private static void answer(HttpExchange exchange) throws IOException {
        if (exchange.getRequestURI().getPath().equals("/block")) {
            try {
                NEVER.await();
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }
        if (exchange.getRequestURI().getPath().equals("/lock")) {
            book();
        }
        byte[] body = "ok\n".getBytes();
        exchange.sendResponseHeaders(200, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }

    private static void book() {
        if (AUDITED.getCount() > 0) {
            new Thread(Blocked::audit, "audit").start();
        }
        try {
            AUDITED.await();
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        System.out.println("waits: " + WAITING.incrementAndGet());
        synchronized (LEDGER) {
            System.out.println("booked");
        }
    }

    private static void audit() {
        synchronized (LEDGER) {
            AUDITED.countDown();
            try {
                NEVER.await();
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }
}
