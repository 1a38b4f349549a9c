//! Chinese-like prose, made on the spot and the same every time: words by
//! Zipf's law, clauses, full-width stops, paragraphs.

use std::fmt::Write as _;

use crate::prose::Random;

/// Words, about the most frequent first.
const WORDS: &str = "的 是 在 了 和 有 我 他 不 这 人 也 就 说 到 都 一个 上 我们 你 很 要 会 着 没有 \
对 中 后 能 自己 与 为 从 被 把 但 可以 他们 又 地 来 去 并 所 以 而 还 等 两 大 小 多 种 年 月 日 时 时候 \
因为 所以 如果 这个 那个 什么 怎么 问题 工作 国家 社会 发展 经济 中国 世界 城市 北京 上海 学生 老师 学校 \
大学 研究 科学 技术 系统 文件 程序 命令 用户 数据 网络 信息 服务 管理 选项 参数 目录 使用 显示 默认 设置 \
支持 方法 情况 关系 方面 生活 时间 地方 东西 事情 孩子 父母 朋友 家庭 历史 文化 语言 文学 艺术 音乐 电影 \
今天 明天 昨天 现在 以前 以后 最近 已经 正在 开始 结束 继续 进行 进入 出来 回来 下去 起来 过去 知道 觉得 \
认为 希望 喜欢 需要 应该 可能 必须 能够 愿意 帮助 提供 包括 通过 根据 关于 由于 为了 虽然 但是 不过 而且 \
或者 以及 甚至 尤其 特别 非常 十分 更加 比较 一些 许多 各种 所有 每个 其他 主要 重要 基本 一般 不同 相同 \
新的 老人 青年 女人 男人 农民 工人 医生 病人 医院 身体 健康 食物 牛奶 米饭 茶叶 花园 树林 河流 山谷 海洋 \
天空 太阳 月亮 星星 春天 夏天 秋天 冬天 风景 道路 火车 飞机 汽车 自行车 邮局 商店 市场 价格 货物 公司 企业 \
银行 资金 投资 贸易 法律 政府 政策 会议 主席 总理 代表 人民 群众 组织 机构 部门 领导 干部 军队 战争 和平 \
革命 运动 改革 开放 建设 生产 农业 工业 能源 电力 石油 煤炭 钢铁 机器 设备 工程 设计 建筑 房屋 桥梁 材料 \
实验 结果 分析 理论 实践 原则 过程 阶段 条件 环境 资源 保护 污染 气候 温度 压力 速度 力量 运行 编译 调用 \
返回 错误 字符 字符串 变量 函数 类型 接口 进程 线程 内存 磁盘 权限 密码 登录 连接 端口 协议 地址 浏览器 \
窗口 按钮 键盘 屏幕 打印 输入 输出 管道 脚本 配置 安装 更新 版本 软件 硬件 图书馆 博物馆 纪念碑 哲学 逻辑 \
思想 精神 道德 宗教 传统 现代 古代 皇帝 朝代 书法 诗歌 小说 故事 笑话 传说 神话 龙 凤凰 老虎 熊猫 麻雀 \
慢慢 静静 忽然 终于 仍然 几乎 似乎 居然 究竟 难道 恐怕 显然 大约 至少 至多 左右 附近 对面 旁边 中间";

/// At least `bytes` of prose in paragraphs.
pub(crate) fn chinese(bytes: usize, seed: u64) -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut random = Random(seed);
    let mut text = String::with_capacity(bytes + 4096);
    while text.len() < bytes {
        for _ in 0..2 + random.below(5) {
            sentence(&words, &mut random, &mut text);
        }
        text.push_str("\n\n");
    }
    text
}

fn sentence(words: &[&str], random: &mut Random, text: &mut String) {
    let is_speech = random.percent(8);
    if is_speech {
        text.push_str("他说：“");
    }
    let clauses = 1 + random.below(4);
    for clause in 0..clauses {
        for _ in 0..3 + random.below(8) {
            match random.below(100) {
                0 => {
                    let _ = write!(text, "{}年", 1900 + random.below(130));
                }
                1 => text.push_str(" Linux "),
                // Half by frequency, half from anywhere: so few words would repeat too much.
                2..50 => text.push_str(words[random.below(words.len())]),
                _ => text.push_str(random.zipf::<&str>(words)),
            }
        }
        if clause + 1 < clauses {
            text.push(if random.percent(12) { '、' } else { '，' });
        }
    }
    text.push(match random.below(16) {
        0 => '？',
        1 => '！',
        _ => '。',
    });
    if is_speech {
        text.push('”');
    }
}
