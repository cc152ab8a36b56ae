import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.locks.ReentrantLock;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;

/**
 * Tomcat with virtual threads or with a pool of threads.
 *
 * Arguments: `virtual`, or the size of the pool; /slow answers after 8 s, /slower after 22 s. /report answers once another thread has the lock,
 * for two seconds. In this time, one /plain and as many /span as there are carriers stop every carrier before JDK 24: each /span
 * waits for the lock in a synchronized method, which pins its virtual thread to its carrier, and the lock goes to /plain, which has
 * no carrier to run on.
 */
final class Pinned {
    private static final ReentrantLock LOCK = new ReentrantLock();
    private static final int REPORT_MILLISECONDS = 2000;

    private static final class Span {
        void record() {
            LOCK.lock();
            LOCK.unlock();
        }

        synchronized void finish() {
            record();
        }
    }

    private static final class Answers extends HttpServlet {
        @Override
        protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
            switch (request.getRequestURI()) {
                case "/slow" -> pause(8000);
                case "/slower" -> pause(22_000);
                case "/report" -> report();
                case "/plain" -> new Span().record();
                case "/span" -> new Span().finish();
                default -> { }
            }
            byte[] body = "ok\n".getBytes();
            response.setContentLength(body.length);
            response.getOutputStream().write(body);
        }
    }

    public static void main(String[] arguments) throws Exception {
        var connector = new Connector();
        connector.setPort(8080);
        connector.setProperty("address", "127.0.0.1");
        if (arguments[0].equals("virtual")) {
            connector.setProperty("useVirtualThreads", "true");
        } else {
            connector.setProperty("maxThreads", arguments[0]);
        }
        var tomcat = new Tomcat();
        tomcat.setBaseDir(System.getProperty("java.io.tmpdir"));
        tomcat.setConnector(connector);
        var context = tomcat.addContext("", null);
        Tomcat.addServlet(context, "answers", new Answers());
        context.addServletMappingDecoded("/*", "answers");
        tomcat.start();
    }

    private static void report() {
        var begun = new CountDownLatch(1);
        new Thread(() -> {
            LOCK.lock();
            begun.countDown();
            pause(REPORT_MILLISECONDS);
            LOCK.unlock();
        }).start();
        try {
            begun.await();
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private static void pause(int milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
