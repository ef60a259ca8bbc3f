import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.util.Arrays;

/**
 * Runs another main class and ends this JVM at once when standard input closes.
 *
 * <p>The operating system closes that pipe however the test process dies, SIGKILL included, so no server is left behind.
 */
public final class Leash {
    private Leash() {}

    public static void main(String[] words) {
        Thread watch = new Thread(Leash::waitForEnd, "leash");
        watch.setDaemon(true);
        watch.start();
        try {
            String[] rest = Arrays.copyOfRange(words, 1, words.length);
            Class.forName(words[0]).getMethod("main", String[].class).invoke(null, (Object) rest);
        } catch (InvocationTargetException failure) {
            failure.getCause().printStackTrace();
            System.exit(1);
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
    }

    private static void waitForEnd() {
        try {
            while (System.in.read() >= 0) {
                // what is written does not matter, only the end does
            }
        } catch (IOException broken) {
            // a broken pipe is an end as well
        }
        Runtime.getRuntime().halt(0);
    }
}
