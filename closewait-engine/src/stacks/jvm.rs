//! Tables of Java: what its functions wait for, which of them are idle, and whose packages are whose.
//!
//! Functions have the names of OpenJDK 8 to 25, and of the libraries' versions of 2015 to 2026. `%` stands for any characters, a function
//! behind ` < ` is the caller.

use super::{idle::BACKGROUND_WORK, waits::CodeWait};

/// Functions that wait in the middle of work, see [`super::waits`].
pub(super) const JVM_WAITS: &[(&str, CodeWait)] = &[
    // Pools of connections.
    ("com.zaxxer.hikari.%.getConnection", CodeWait::Pool),
    ("com.mchange.v2.resourcepool.%", CodeWait::Pool),
    ("com.alibaba.druid.pool.%.getConnection%", CodeWait::Pool),
    ("io.agroal.pool.ConnectionPool.getConnection", CodeWait::Pool),
    ("oracle.ucp.%.getConnection", CodeWait::Pool),
    ("org.apache.commons.pool%.borrowObject", CodeWait::Pool),
    // The same in other packages, as those of Tomcat.
    ("%.GenericObjectPool.borrowObject", CodeWait::Pool),
    ("%.GenericKeyedObjectPool.borrowObject", CodeWait::Pool),
    ("org.apache.tomcat.jdbc.pool.ConnectionPool.getConnection", CodeWait::Pool),
    ("org.apache.tomcat.jdbc.pool.ConnectionPool.borrowConnection", CodeWait::Pool),
    ("org.apache.http.pool.AbstractConnPool.%", CodeWait::Pool),
    ("org.apache.http.impl.conn.PoolingHttpClientConnectionManager.leaseConnection", CodeWait::Pool),
    ("org.apache.hc.client5.http.impl.%.leaseConnection", CodeWait::Pool),
    ("org.apache.hc.client5.http.impl.classic.InternalExecRuntime.acquireEndpoint", CodeWait::Pool),
    ("redis.clients.jedis.%.getResource", CodeWait::Pool),
    ("com.mongodb.%.%ConnectionPool.get", CodeWait::Pool),
    ("org.jboss.jca.core.connectionmanager.pool.%.getConnection", CodeWait::Pool),
    ("weblogic.common.resourcepool.%.reserveResource%", CodeWait::Pool),
    // Locks.
    ("java.util.concurrent.locks.ReentrantLock.%ock%", CodeWait::Lock),
    ("java.util.concurrent.locks.ReentrantReadWriteLock$%", CodeWait::Lock),
    ("java.util.concurrent.locks.StampedLock.%", CodeWait::Lock),
    // Names, connections and data.
    ("java.net.InetAddress.%", CodeWait::Resolve),
    ("java.net.Inet%AddressImpl.%", CodeWait::Resolve),
    ("java.net.Socket.connect", CodeWait::Connect),
    ("sun.nio.ch.SocketChannelImpl.%onnect", CodeWait::Connect),
    ("java.net.ServerSocket.accept", CodeWait::Accept),
    ("sun.nio.ch.ServerSocketChannelImpl.accept", CodeWait::Accept),
    ("java.net.SocketInputStream.%ead%", CodeWait::Receive),
    ("java.net.Socket$SocketInputStream.read", CodeWait::Receive),
    ("sun.nio.ch.NioSocketImpl.%ead%", CodeWait::Receive),
    ("sun.nio.ch.SocketChannelImpl.read", CodeWait::Receive),
    ("sun.security.ssl.SSLSocketImpl%ead", CodeWait::Receive),
    ("sun.security.ssl.SSLSocketImpl.startHandshake", CodeWait::Receive),
    ("jdk.internal.net.http.HttpClientImpl.send", CodeWait::Receive),
    ("io.grpc.stub.ClientCalls.blocking%", CodeWait::Receive),
    ("java.net.SocketOutputStream.%rite%", CodeWait::Send),
    ("java.net.Socket$SocketOutputStream.write", CodeWait::Send),
    ("sun.nio.ch.NioSocketImpl.%rite%", CodeWait::Send),
    ("sun.nio.ch.SocketChannelImpl.write", CodeWait::Send),
    ("sun.nio.ch.SelectorImpl.%elect%", CodeWait::Events),
    ("sun.nio.ch.EPoll%ait%", CodeWait::Events),
    ("io.netty.channel.epoll.Native.epollWait%", CodeWait::Events),
    // Other threads.
    ("java.lang.Thread.sleep%", CodeWait::Sleep),
    ("java.util.concurrent.TimeUnit.sleep", CodeWait::Sleep),
    ("java.lang.Thread.join", CodeWait::Join),
    ("java.lang.ProcessImpl.waitFor", CodeWait::Process),
    ("java.lang.UNIXProcess.waitFor", CodeWait::Process),
    ("java.lang.Object.wait%", CodeWait::Signal),
    ("java.util.concurrent.FutureTask.get", CodeWait::Signal),
    ("java.util.concurrent.CompletableFuture.%", CodeWait::Signal),
    ("java.util.concurrent.ForkJoinTask.%", CodeWait::Signal),
    ("java.util.concurrent.CountDownLatch.await", CodeWait::Signal),
    ("java.util.concurrent.CyclicBarrier.await", CodeWait::Signal),
    ("java.util.concurrent.Phaser.%wait%", CodeWait::Signal),
    ("java.util.concurrent.Exchanger.exchange", CodeWait::Signal),
    ("java.util.concurrent.Semaphore.%cquire%", CodeWait::Lock),
    ("java.util.concurrent.%Queue.put%", CodeWait::Room),
    ("java.util.concurrent.%Deque.put%", CodeWait::Room),
    ("java.util.concurrent.%Queue.%", CodeWait::Signal),
    ("java.util.concurrent.%Deque.%", CodeWait::Signal),
    ("java.util.concurrent.locks.AbstractQueuedSynchronizer$ConditionObject.await%", CodeWait::Signal),
    ("java.util.concurrent.locks.LockSupport.park%", CodeWait::Signal),
    // Files.
    ("java.io.FileInputStream.read%", CodeWait::File),
    ("java.io.FileOutputStream.write%", CodeWait::File),
    ("java.io.FileDescriptor.sync", CodeWait::File),
    ("java.io.RandomAccessFile.%", CodeWait::File),
    ("sun.nio.ch.FileChannelImpl.%", CodeWait::File),
];

/// Functions that wait for the next request or piece of work, see [`super::idle`], with what they wait for.
pub(super) const JVM_IDLE: &[(&str, &str)] = &[
    ("java.util.concurrent.ThreadPoolExecutor.getTask", "work"),
    ("java.util.concurrent.ForkJoinPool.awaitWork", "work"),
    ("java.util.concurrent.DelayScheduler.loop", "work"),
    ("java.lang.Object.wait < java.util.TimerThread.mainLoop", "work"),
    ("org.apache.tomcat.util.threads.ThreadPoolExecutor.getTask", "work"),
    ("org.eclipse.jetty.util.thread.QueuedThreadPool%.idleJobPoll", "work"),
    ("org.eclipse.jetty.util.thread.ReservedThreadExecutor$ReservedThread.reservedWait", "work"),
    ("java.util.concurrent.locks.LockSupport.park < org.jboss.threads.EnhancedQueueExecutor$ThreadBody.run", "work"),
    ("java.util.concurrent.LinkedBlockingQueue.take < io.netty.%.takeTask", "work"),
    ("java.util.concurrent.ArrayBlockingQueue.take < ch.qos.logback.core.AsyncAppenderBase$Worker.run", "work"),
    ("java.util.concurrent.LinkedBlockingQueue.take < org.apache.zookeeper.ClientCnxn$EventThread.run", "work"),
    ("com.lmax.disruptor.%WaitStrategy.waitFor", "work"),
    ("io.netty.util.HashedWheelTimer$Worker.waitForNextTick", "work"),
    ("java.lang.Object.wait < org.quartz.simpl.SimpleThreadPool$WorkerThread.run", "work"),
    ("java.lang.Object.wait < org.quartz.core.QuartzSchedulerThread.run", "work"),
    ("java.lang.Thread.sleep < org.apache.http.impl.client.IdleConnectionEvictor$1.run", "work"),
    ("org.apache.coyote.http11.Http11InputBuffer.parseRequestLine", "the next request"),
    ("org.apache.coyote.http11.InternalInputBuffer.parseRequestLine", "the next request"),
    ("sun.net.httpserver.Request.readLine", "the next request"),
    ("kotlinx.coroutines.scheduling.CoroutineScheduler$Worker.park", "work"),
    ("scala.concurrent.forkjoin.ForkJoinPool.%wait%", "work"),
    ("sun.nio.ch.ServerSocketChannelImpl.accept < %.serverSocketAccept", "clients"),
    ("sun.nio.ch.ServerSocketChannelImpl.accept < org.eclipse.jetty.server.ServerConnector.accept", "clients"),
    ("java.net.ServerSocket.accept < sun.rmi.transport.%", "clients"),
    ("java.net.ServerSocket.accept < sun.management.jmxremote.%", "clients"),
    ("java.net.ServerSocket.accept < org.apache.catalina.core.StandardServer.await", "the end of the server"),
    ("java.lang.Thread.sleep < org.apache.catalina.core.StandardServer.await", "the end of the server"),
    ("sun.nio.ch.SelectorImpl.select < org.apache.tomcat.util.net.NioEndpoint$Poller.run", "events"),
    ("sun.nio.ch.SelectorImpl.select < org.eclipse.jetty.io.ManagedSelector%", "events"),
    ("sun.nio.ch.SelectorImpl.select < org.xnio.nio.WorkerThread.run", "events"),
    ("sun.nio.ch.SelectorImpl.select < sun.net.httpserver.ServerImpl$Dispatcher.run", "events"),
    ("sun.nio.ch.SelectorImpl.select < jdk.internal.net.http.HttpClientImpl$SelectorManager.run", "events"),
    ("sun.nio.ch.SelectorImpl.select < io.netty.%", "events"),
    ("io.netty.channel.epoll.Native.epollWait%", "events"),
    ("sun.nio.ch.EPollPort$EventHandlerTask.poll", "events"),
    ("sun.nio.ch.EPollPoller.poll", "events"),
    ("java.lang.ref.Reference.waitForReferencePendingList", BACKGROUND_WORK),
    ("java.lang.ref.Reference.tryHandlePending", BACKGROUND_WORK),
    ("java.lang.ref.ReferenceQueue.remove%", BACKGROUND_WORK),
    ("java.lang.VirtualThread.takeVirtualThreadListToUnblock", BACKGROUND_WORK),
    ("java.lang.UNIXProcess.waitForProcessExit", BACKGROUND_WORK),
    ("java.lang.ProcessHandleImpl.waitForProcessExit%", BACKGROUND_WORK),
];

/// Beginnings of the names of classes of the JDK.
pub(super) const JDK_PACKAGES: [&str; 4] = ["java.", "jdk.", "sun.", "com.sun."];

/// Beginnings of the names of classes of libraries: servers, frameworks, languages, drivers.
pub(super) const JVM_LIBRARIES: &[&str] = &[
    "akka.",
    "brave.",
    "cats.",
    "ch.qos.logback.",
    "clojure.",
    "com.alibaba.druid.",
    "com.amazonaws.",
    "com.datastax.",
    "com.fasterxml.",
    "com.github.benmanes.caffeine.",
    "com.google.api.",
    "com.google.common.",
    "com.google.inject.",
    "com.google.protobuf.",
    "com.ibm.",
    "com.lmax.disruptor.",
    "com.mchange.",
    "com.microsoft.sqlserver.",
    "com.mongodb.",
    "com.mysql.",
    "com.netflix.hystrix.",
    "com.netflix.zuul.",
    "com.rabbitmq.client.",
    "com.zaxxer.hikari.",
    "feign.",
    "freemarker.",
    "groovy.",
    "io.agroal.",
    "io.grpc.",
    "io.lettuce.",
    "io.micrometer.",
    "io.micronaut.",
    "io.netty.",
    "io.opentelemetry.",
    "io.quarkus.",
    "io.reactivex.",
    "io.undertow.",
    "io.vertx.",
    "jakarta.",
    "javax.",
    "kotlin.",
    "kotlinx.",
    "net.bytebuddy.",
    "net.sf.cglib.",
    "okhttp3.",
    "okio.",
    "oracle.",
    "org.apache.",
    "org.aspectj.",
    "org.codehaus.",
    "org.eclipse.",
    "org.elasticsearch.",
    "org.glassfish.",
    "org.h2.",
    "org.hibernate.",
    "org.infinispan.",
    "org.jboss.",
    "org.jooq.",
    "org.mariadb.",
    "org.mybatis.",
    "org.postgresql.",
    "org.quartz.",
    "org.redisson.",
    "org.slf4j.",
    "org.springframework.",
    "org.wildfly.",
    "org.xnio.",
    "play.",
    "reactor.",
    "redis.clients.",
    "retrofit2.",
    "rx.",
    "scala.",
    "software.amazon.awssdk.",
    "weblogic.",
    "zio.",
];

#[cfg(test)]
mod tests {
    use crate::stacks::{CodeFrame, CodeLanguage, CodeStack, StackGroup, ThreadWork, group_stacks};

    use super::*;

    /// Returns a stack of functions, innermost first.
    fn stack(name: &str, state: &str, functions: &[&str]) -> CodeStack {
        let frame = |function: &&str| CodeFrame { function: Some((*function).to_owned()), ..CodeFrame::default() };
        CodeStack {
            language: CodeLanguage::Jvm,
            tid: None,
            name: Some(name.to_owned()),
            state: Some(state.to_owned()),
            lock_owner: None,
            frames: functions.iter().map(frame).collect(),
            cut: None,
        }
    }

    fn work(functions: &[&str]) -> (ThreadWork, Option<String>) {
        let group: StackGroup = group_stacks(&[stack("t", "WAITING (parking)", functions)]).remove(0);
        (group.work, group.place().and_then(|frame| frame.function.clone()))
    }

    const PARKED: [&str; 3] = [
        "jdk.internal.misc.Unsafe.park",
        "java.util.concurrent.locks.LockSupport.park",
        "java.util.concurrent.locks.AbstractQueuedSynchronizer.acquire",
    ];

    #[test]
    fn a_parked_thread_waits_for_what_it_has_asked_for() {
        for (functions, expected) in [
            (&["java.util.concurrent.locks.ReentrantLock.lock", "shop.Orders.reserve"][..], CodeWait::Lock),
            (&["java.util.concurrent.CountDownLatch.await", "shop.Orders.reserve"], CodeWait::Signal),
            (&["java.util.concurrent.LinkedBlockingQueue.take", "shop.Orders.reserve"], CodeWait::Signal),
            (
                &[
                    "com.zaxxer.hikari.util.ConcurrentBag.borrow",
                    "com.zaxxer.hikari.pool.HikariPool.getConnection",
                    "org.springframework.jdbc.datasource.DataSourceUtils.getConnection",
                    "shop.Orders.reserve",
                ],
                CodeWait::Pool,
            ),
        ] {
            let (work, place) = work(&[&PARKED, functions].concat());
            assert_eq!((work, place.as_deref()), (ThreadWork::Waits(expected), Some("shop.Orders.reserve")));
        }
    }

    #[test]
    fn threads_that_wait_for_the_next_request_are_idle_and_those_in_one_are_not() {
        let read = ["sun.nio.ch.SocketDispatcher.read0", "sun.nio.ch.NioSocketImpl.read", "java.io.InputStream.read"];
        for parse in
            ["sun.net.httpserver.Request.readLine", "org.apache.coyote.http11.Http11InputBuffer.parseRequestLine"]
        {
            let outer = [parse, "java.util.concurrent.ThreadPoolExecutor.runWorker"];
            assert_eq!(work(&[&read[..], &outer].concat()), (ThreadWork::Idle("the next request"), None));
        }
        let answer = ["com.mysql.cj.protocol.ReadAheadInputStream.fill", "shop.Orders.load"];
        let expected = (ThreadWork::Waits(CodeWait::Receive), Some("shop.Orders.load".to_owned()));
        assert_eq!(work(&[&read[..], &answer].concat()), expected);
    }

    #[test]
    fn pools_of_connections_are_known() {
        for pool in [
            "com.zaxxer.hikari.HikariDataSource.getConnection",
            "org.apache.commons.pool2.impl.GenericObjectPool.borrowObject",
            "org.apache.tomcat.dbcp.pool2.impl.GenericObjectPool.borrowObject",
            "org.apache.http.impl.conn.PoolingHttpClientConnectionManager.leaseConnection",
            "org.apache.hc.client5.http.impl.classic.InternalExecRuntime.acquireEndpoint",
            "com.mongodb.connection.DefaultConnectionPool.get",
            "com.mongodb.internal.connection.DefaultConnectionPool.get",
            "org.jboss.jca.core.connectionmanager.pool.mcp.SemaphoreConcurrentLinkedQueueManagedConnectionPool.getConnection",
        ] {
            assert_eq!(work(&[&PARKED[..], &[pool, "shop.Orders.load"]].concat()).0, ThreadWork::Waits(CodeWait::Pool));
        }
    }

    #[test]
    fn threads_of_pools_and_servers_are_idle_and_those_behind_a_limit_are_not() {
        let select = ["sun.nio.ch.EPoll.wait", "sun.nio.ch.SelectorImpl.select"];
        let accept = ["sun.nio.ch.Net.accept", "sun.nio.ch.ServerSocketChannelImpl.accept"];
        let task = "java.util.concurrent.ThreadPoolExecutor.getTask";
        for (functions, expected) in [
            (&[&PARKED[..], &["java.util.concurrent.LinkedBlockingQueue.take", task]].concat()[..], "work"),
            (&[&PARKED[..], &["java.util.concurrent.ForkJoinPool.awaitWork"]].concat(), "work"),
            (&[&select[..], &["org.apache.tomcat.util.net.NioEndpoint$Poller.run"]].concat(), "events"),
            (&[&accept[..], &["org.apache.tomcat.util.net.NioEndpoint.serverSocketAccept"]].concat(), "clients"),
            (&["java.lang.Object.wait", "java.lang.ref.ReferenceQueue.remove"], BACKGROUND_WORK),
            (&[], BACKGROUND_WORK),
        ] {
            assert_eq!(work(functions), (ThreadWork::Idle(expected), None), "{functions:?}");
        }
        let full =
            ["org.apache.tomcat.util.threads.LimitLatch.countUpOrAwait", "org.apache.tomcat.util.net.Acceptor.run"];
        assert_eq!(work(&[&PARKED[..], &full].concat()).0, ThreadWork::Waits(CodeWait::Signal));
        let busy = ["shop.Orders.reserve", task];
        assert_eq!(work(&[&PARKED[..], &busy].concat()).0, ThreadWork::Waits(CodeWait::Signal));
    }

    #[test]
    fn a_monitor_has_no_function_and_its_holder_is_named() {
        let mut waits = stack("http-1", "BLOCKED (on object monitor)", &["shop.Orders.reserve"]);
        waits.lock_owner = Some(2);
        let second = CodeStack { name: Some("http-2".to_owned()), ..waits.clone() };
        let holds = stack("audit", "TIMED_WAITING (sleeping)", &["java.lang.Thread.sleep", "shop.Orders.write"]);
        let groups = group_stacks(&[waits, second, holds]);
        let [blocked, lock_owner] = &groups[..] else { panic!("{groups:#?}") };
        assert_eq!((blocked.count, blocked.work), (2, ThreadWork::Waits(CodeWait::Lock)));
        assert_eq!(blocked.names, ["http-1", "http-2"]);
        let named = blocked.lock_owner.as_ref().unwrap();
        assert_eq!((named.name.as_deref(), named.work), (Some("audit"), ThreadWork::Waits(CodeWait::Sleep)));
        assert_eq!(named.place.as_ref().unwrap().function.as_deref(), Some("shop.Orders.write"));
        assert_eq!(lock_owner.lock_owner, None);
    }

    #[test]
    fn other_holders_are_other_groups_and_a_missing_one_is_none() {
        let waits = |lock_owner| CodeStack { lock_owner, ..stack("t", "BLOCKED", &["shop.Orders.reserve"]) };
        let groups = group_stacks(&[waits(Some(1)), waits(Some(0)), waits(Some(9)), waits(None)]);
        assert_eq!(groups.len(), 4);
        assert_eq!(groups.iter().filter(|group| group.lock_owner.is_some()).count(), 2);
    }
}
