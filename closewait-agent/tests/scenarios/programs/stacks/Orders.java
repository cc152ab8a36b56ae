import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * A server with eight workers. /order takes the lock of the ledger; after /audit, a thread has it and never releases it. /report
 * asks the backend. /forget answers and keeps the connection. Everything else is answered, and the connection closed.
 */
final class Orders {
    private static final Object LEDGER = new Object();
    private static final List<Socket> FORGOTTEN = new ArrayList<>();
    private static final byte[] ANSWER = "HTTP/1.0 200 OK\r\n\r\nok\n".getBytes();
    private static long orders;

    public static void main(String[] arguments) throws Exception {
        InetAddress local = InetAddress.getByName("127.0.0.1");
        ExecutorService workers = Executors.newFixedThreadPool(8);
        try (ServerSocket listener = new ServerSocket(8080, 64, local)) {
            while (true) {
                try {
                    Socket accepted = listener.accept();
                    workers.execute(() -> serve(accepted));
                } catch (IOException noDescriptor) {
                    Thread.sleep(100);
                }
            }
        }
    }

    private static void serve(Socket connection) {
        try {
            byte[] request = new byte[4096];
            int length = connection.getInputStream().read(request);
            String text = new String(request, 0, Math.max(length, 0));
            if (text.contains("/order")) {
                reserve();
            } else if (text.contains("/report")) {
                report();
            } else if (text.contains("/audit")) {
                new Thread(Orders::audit, "audit").start();
            }
            connection.getOutputStream().write(ANSWER);
            if (text.contains("/forget")) {
                synchronized (FORGOTTEN) {
                    FORGOTTEN.add(connection);
                }
            } else {
                connection.close();
            }
        } catch (IOException failed) {
            System.err.println(failed);
            close(connection);
        }
    }

    private static void reserve() {
        synchronized (LEDGER) {
            orders++;
        }
    }

    private static void report() throws IOException {
        try (Socket backend = new Socket("127.0.0.1", 8081)) {
            backend.getOutputStream().write("report\n".getBytes());
            backend.getInputStream().read();
        }
    }

    private static void audit() {
        synchronized (LEDGER) {
            while (true) {
                try {
                    Thread.sleep(1000000);
                } catch (InterruptedException ignored) {
                    return;
                }
            }
        }
    }

    private static void close(Socket connection) {
        try {
            connection.close();
        } catch (IOException ignored) {
            System.err.println(ignored);
        }
    }
}
