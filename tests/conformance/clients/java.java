/* HttpURLConnection and a table of error words looked for anywhere, ints for ids: as SMS-Activate's own client in Java.

from: Java
path: /stubs/handler_api.php
calls: balance stock number waiting ready code text again finish cancel bad_key no_numbers bad_service
*/
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.URL;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.GZIPInputStream;

class Bot {
    static String url, key;

    static String api(String action, String... more) throws IOException {
        StringBuilder target = new StringBuilder(url + "?api_key=" + key + "&action=" + action);
        for (int i = 0; i < more.length; i += 2) {
            target.append('&').append(more[i]).append('=').append(URLEncoder.encode(more[i + 1], StandardCharsets.UTF_8));
        }
        HttpURLConnection connection = (HttpURLConnection) new URL(target.toString()).openConnection();
        connection.setRequestProperty("Accept-Encoding", "gzip");
        if (connection.getResponseCode() != 200) throw new IOException("status " + connection.getResponseCode());
        try (InputStream body = unpacked(connection)) {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            body.transferTo(bytes);
            return bytes.toString(StandardCharsets.UTF_8);
        }
    }

    static InputStream unpacked(HttpURLConnection connection) throws IOException {
        InputStream body = connection.getInputStream();
        return "gzip".equals(connection.getContentEncoding()) ? new GZIPInputStream(body) : body;
    }

    static void ok(String name, boolean is, String answer) {
        if (!is) throw new IllegalStateException(name + ": " + answer);
        System.out.println("ok " + name);
    }

    static String code(int id) throws Exception {
        for (int i = 0; i < 150; i++) {
            String answer = api("getStatus", "id", "" + id);
            if (answer.startsWith("STATUS_OK:")) return answer.split(":")[1];
            if (!answer.equals("STATUS_WAIT_CODE") && !answer.startsWith("STATUS_WAIT_RETRY")) throw new IOException(answer);
            Thread.sleep(100);
        }
        throw new IOException("no code");
    }

    public static void main(String[] arguments) throws Exception {
        url = arguments[0];
        key = arguments[2];
        String balance = api("getBalance");
        ok("balance", new java.math.BigDecimal(balance.split(":")[1]).signum() > 0, balance);
        Matcher stock = Pattern.compile("\"tg\":\"(\\d+)\"").matcher(api("getNumbersStatus", "country", "6"));
        ok("stock", stock.find() && Integer.parseInt(stock.group(1)) > 0, "no tg");
        String bought = api("getNumber", "service", "tg", "country", "6", "operator", "any", "forward", "0");
        String[] parts = bought.split(":");
        ok("number", parts.length == 3 && parts[0].equals("ACCESS_NUMBER") && parts[2].startsWith("62"), bought);
        int id = Integer.parseInt(parts[1]);
        ok("waiting", api("getStatus", "id", "" + id).equals("STATUS_WAIT_CODE"), "");
        ok("ready", api("setStatus", "id", "" + id, "status", "1").equals("ACCESS_READY"), "");
        String first = code(id);
        ok("code", first.matches("\\d{4,8}"), first);
        String text = api("getFullSms", "id", "" + id);
        ok("text", text.startsWith("FULL_SMS:") && text.contains(first), text);
        String retry = api("setStatus", "id", "" + id, "status", "3");
        ok("again", retry.equals("ACCESS_RETRY_GET") && !code(id).equals(first), retry);
        String done = api("setStatus", "id", "" + id, "status", "6");
        ok("finish", done.equals("ACCESS_ACTIVATION"), done);
        String paid = api("getBalance");
        String other = api("getNumber", "service", "tg", "country", "6").split(":")[1];
        String given = api("setStatus", "id", other, "status", "8");
        ok("cancel", given.equals("ACCESS_CANCEL") && api("getBalance").equals(paid), given);
        String mine = key;
        key = "wrong";
        ok("bad_key", api("getBalance").contains("BAD_KEY"), "");
        key = mine;
        ok("no_numbers", api("getNumber", "service", "zz", "country", "204").contains("NO_NUMBERS"), "");
        ok("bad_service", api("getNumber", "service", "nonsense", "country", "6").contains("BAD_SERVICE"), "");
    }
}
