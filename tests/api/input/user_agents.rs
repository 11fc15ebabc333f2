//! What clients call themselves, and what they are called in turn.

use doorward::fields::device::device;

/// As browsers and programs send them.
const SENT: &str = "
Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0 | Firefox on Windows
Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0 | Firefox on Linux
Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:128.0) Gecko/20100101 Firefox/128.0 | Firefox on macOS
Mozilla/5.0 (Android 14; Mobile; rv:128.0) Gecko/128.0 Firefox/128.0 | Firefox on Android
Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/128.0 Mobile/15E148 Safari/605.1.15 | Firefox on iPhone
Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 | Chrome on Windows
Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36 | Chrome on Android
Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 | Chrome on ChromeOS
Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/126.0.6478.54 Mobile/15E148 Safari/604.1 | Chrome on iPhone
Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0 | Edge on Windows
Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/64.0.3282.140 Safari/537.36 Edge/18.17763 | Edge on Windows
Mozilla/5.0 (Linux; Android 10; HD1913) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.6478.61 Mobile Safari/537.36 EdgA/125.0.2535.87 | Edge on Android
Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 EdgiOS/125.2535.96 Mobile/15E148 Safari/605.1.15 | Edge on iPhone
Mozilla/5.0 (Windows NT 10.0; Win64; x64; Xbox; Xbox One) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edge/44.18363.8131 | Edge on Xbox
Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 OPR/111.0.0.0 | Opera on macOS
Opera/9.80 (Windows NT 6.1; WOW64) Presto/2.12.388 Version/12.18 | Opera on Windows
Opera/9.80 (Android; Opera Mini/36.2/191.256; U; en) Presto/2.12.423 Version/12.16 | Opera Mini on Android
Mozilla/5.0 (Linux; Android 13; SAMSUNG SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/25.0 Chrome/121.0.0.0 Mobile Safari/537.36 | Samsung Internet on Android
Mozilla/5.0 (SMART-TV; LINUX; Tizen 6.0) AppleWebKit/537.36 (KHTML, like Gecko) 76.0.3809.146/6.0 TV Safari/537.36 | Safari on Tizen
Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 YaBrowser/24.6.0.0 Safari/537.36 | Yandex Browser on Windows
Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Vivaldi/6.8.3381.44 | Vivaldi on Linux
Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4.1 Safari/605.1.15 | Safari on macOS
Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1 | Safari on iPhone
Mozilla/5.0 (iPad; CPU OS 16_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 Mobile/15E148 Safari/604.1 | Safari on iPad
Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko | Internet Explorer on Windows
Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1; Trident/4.0) | Internet Explorer on Windows
Mozilla/5.0 (Windows Phone 10.0; Android 6.0.1; Microsoft; Lumia 950) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/52.0.2743.116 Mobile Safari/537.36 Edge/15.15063 | Edge on Windows Phone
Mozilla/5.0 (Linux; Android 13; Pixel 7 Build/TQ3A.230805.001; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/126.0.0.0 Mobile Safari/537.36 | An app on Android
Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Slack/4.38 Chrome/124.0.0.0 Electron/30.0.6 Safari/537.36 | A desktop app on Windows
Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/126.0.0.0 Safari/537.36 | Headless Chrome on Linux
Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html) | A bot
Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm) Chrome/103.0.5060.134 Safari/537.36 | A bot
MyApp/3.2 (iPhone; iOS 17.5; Scale/3.00) | An app on iPhone
MyApp/7 CFNetwork/1496.0.7 Darwin/23.5.0 | An app on an Apple device
curl/8.8.0 | curl
Wget/1.21.4 | Wget
PostmanRuntime/7.39.0 | Postman
okhttp/4.12.0 | OkHttp
python-requests/2.32.3 | Python
Python-urllib/3.12 | Python
Go-http-client/2.0 | Go
axios/1.7.2 | Node.js
node | Node.js
Java/17.0.11 | Java
Dart/3.4 (dart:io) | Dart
something of one's own | an unknown device
 | an unknown device";

#[test]
fn a_client_is_called_what_its_owner_calls_it() {
    let rows: Vec<_> = SENT.lines().skip(1).map(|row| row.rsplit_once(" | ")).collect();
    assert!(rows.len() > 40);
    for row in rows {
        let (agent, name) = row.expect("an agent and a name");
        assert_eq!(device(Some(agent)), name, "{agent}");
    }
    assert_eq!(device(None), "an unknown device");
}

#[test]
fn nothing_that_a_client_says_is_repeated() {
    for odd in ["x".repeat(300), "\u{0}<b>\r\n".to_owned(), "\u{e9}\u{1f600}".repeat(150)] {
        assert_eq!(device(Some(&odd)), "an unknown device");
    }
    let long = format!("{} Firefox/1", "<script>".repeat(40));
    assert_eq!(device(Some(&long)), "Firefox");
}
