//! What a client calls itself, in words that its owner knows: "Firefox on Windows".
//!
//! A client may say anything, so nothing of what it says is repeated: what is not in these tables is
//! an unknown device.

/// In a user agent, in lower case, and what people call it. The first that is found counts: nearly
/// every browser also names those that it wants to be taken for.
const PROGRAMS: [(&str, &str); 50] = [
    ("headlesschrome/", "Headless Chrome"),
    ("bot/", "A bot"),
    ("bot;", "A bot"),
    ("spider", "A bot"),
    ("crawler", "A bot"),
    ("edg/", "Edge"),
    ("edga/", "Edge"),
    ("edgios/", "Edge"),
    ("edge/", "Edge"),
    ("opr/", "Opera"),
    ("opt/", "Opera"),
    ("opios/", "Opera"),
    ("opera mini", "Opera Mini"),
    ("opera", "Opera"),
    ("samsungbrowser/", "Samsung Internet"),
    ("yabrowser/", "Yandex Browser"),
    ("vivaldi/", "Vivaldi"),
    ("duckduckgo/", "DuckDuckGo"),
    ("ddg/", "DuckDuckGo"),
    ("ucbrowser/", "UC Browser"),
    ("miuibrowser/", "Mi Browser"),
    ("huaweibrowser/", "Huawei Browser"),
    ("postmanruntime/", "Postman"),
    ("insomnia/", "Insomnia"),
    ("electron/", "A desktop app"),
    ("fxios/", "Firefox"),
    ("focus/", "Firefox Focus"),
    ("seamonkey/", "SeaMonkey"),
    ("firefox/", "Firefox"),
    ("crios/", "Chrome"),
    ("; wv)", "An app"),
    ("chromium/", "Chromium"),
    ("chrome/", "Chrome"),
    ("trident/", "Internet Explorer"),
    ("msie ", "Internet Explorer"),
    ("safari/", "Safari"),
    ("curl/", "curl"),
    ("wget/", "Wget"),
    ("httpie/", "HTTPie"),
    ("okhttp/", "OkHttp"),
    ("python", "Python"),
    ("go-http-client/", "Go"),
    ("axios/", "Node.js"),
    ("node", "Node.js"),
    ("undici", "Node.js"),
    ("apache-httpclient/", "Java"),
    ("java/", "Java"),
    ("dart/", "Dart"),
    ("powershell/", "PowerShell"),
    ("cfnetwork/", "An app"),
];

/// Likewise.
const SYSTEMS: [(&str, &str); 20] = [
    ("windows phone", "Windows Phone"),
    ("xbox", "Xbox"),
    ("ipad", "iPad"),
    ("iphone", "iPhone"),
    ("ipod", "iPod"),
    ("playstation", "PlayStation"),
    ("nintendo", "Nintendo"),
    ("tizen", "Tizen"),
    ("web0s", "webOS"),
    ("webos", "webOS"),
    ("harmonyos", "HarmonyOS"),
    ("kaios", "KaiOS"),
    ("android", "Android"),
    ("cros ", "ChromeOS"),
    ("windows", "Windows"),
    ("macintosh", "macOS"),
    ("mac os x", "macOS"),
    ("darwin", "an Apple device"),
    ("freebsd", "FreeBSD"),
    ("linux", "Linux"),
];

/// What people know the client by.
pub fn device(user_agent: Option<&str>) -> String {
    let given = user_agent.unwrap_or_default().to_ascii_lowercase();
    let find = |table: &[(&str, &'static str)]| {
        table.iter().find(|(word, _)| given.contains(word)).map(|(_, name)| *name)
    };
    match (find(&PROGRAMS), find(&SYSTEMS)) {
        (Some(program), Some(system)) => format!("{program} on {system}"),
        (Some(program), None) => program.to_owned(),
        (None, Some(system)) => format!("An app on {system}"),
        (None, None) => "an unknown device".to_owned(),
    }
}
